"""Layouts of the weights: the default of a CPU, the one remembered for this machine, and their files in a cache folder.

A layout must not cost quality: its perplexity may be at most 2 % above the original file's.
"""

import hashlib
import json
import logging
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
from filelock import FileLock

from dermnote_contracts.notes import Quantization
from dermnote_notegen.engine.amx_probe import repacking_works
from dermnote_notegen.engine.llama import (
    CACHE_TYPES,
    NAME,
    ContextConfig,
    LlamaContext,
    Weights,
    cpu_flags,
    cpu_info,
    quantize,
)
from dermnote_notegen.engine.model import PRESETS, BatchToken, ModelInfo, ModelNotFound, sha256_of
from dermnote_notegen.engine.sampling import Logits

log = logging.getLogger(__name__)
SOURCE = "source"
QUANTIZATIONS = ("BF16", "Q8_0", "Q4_0")
MAX_PERPLEXITY_RISE = 0.02
MEASURED_CELLS, MEASURED_BATCH = 1024, 64
LOCK = "lock"


@dataclass(frozen=True)
class Layout:
    """A quantisation of the weights ("source": the original file) and a data type of the cache's keys."""

    quantization: str
    keys: str

    def __str__(self) -> str:
        return f"{self.quantization} weights with {self.keys} keys"


ORIGINAL = Layout(SOURCE, "f16")
# CPU flag -> fastest layout of the presets. The first flag that the CPU has applies. Measurements: docs/engine.md.
DEFAULTS = {"avx512_bf16": Layout("BF16", "bf16"), "avx2": Layout("Q8_0", "f16")}


def default_layout(flags: Collection[str]) -> Layout:
    """The layout for a CPU with these flags; the original layout if no other is known to be faster."""
    return next((layout for flag, layout in DEFAULTS.items() if flag in flags), ORIGINAL)


@dataclass(frozen=True)
class WeightsFile:
    """The file to load, what it contains, and the data type of the cache's keys."""

    path: Path
    info: ModelInfo
    keys: str = ORIGINAL.keys


def select_weights(source: WeightsFile, *, threads: int, folder: Path, requantize: str = "auto") -> WeightsFile:
    """The weights in the layout that `requantize` names.

    "auto": the layout remembered for this machine; if there is none, the CPU's default for a preset (its perplexity is
    verified once) and the original file for other weights. If the folder is unusable, the original file is used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK):
            if requantize != "auto":
                return converted(source, requantize.upper(), folder)
            layout = remembered(source.info, threads, folder)
            if layout is None and source.info.name not in PRESETS:
                log.info("%s runs unchanged; `python -m %s` may find a faster layout", source.path, __package__)
                return source
            if layout is None:
                layout = _verified_default(source, threads, folder)
                remember(layout, source.info, threads, folder)
            return replace(converted(source, layout.quantization, folder), keys=layout.keys)
    except OSError as error:
        log.warning("%s runs in its original layout: cannot use %s: %s", source.info.name, folder, error.strerror)
        return source


def _verified_default(source: WeightsFile, threads: int, folder: Path) -> Layout:
    layout = default_layout(cpu_flags())
    if layout == ORIGINAL:
        return layout
    log.info("preparing %s for this CPU (once)", layout)
    limit = measure(source.path, threads=threads).perplexity * (1 + MAX_PERPLEXITY_RISE)
    made = converted(source, layout.quantization, folder)
    try:
        perplexity = measure(made.path, threads=threads, keys=layout.keys).perplexity
    except ModelNotFound as error:
        log.warning("%s rejected: %s", layout, error)
        return ORIGINAL
    if perplexity <= limit:
        return layout
    log.warning("%s rejected: perplexity %.2f, limit %.2f", layout, perplexity, limit)
    return ORIGINAL


@dataclass(frozen=True)
class Measurement:
    """Quality and speed of a layout on typical prompts and notes (texts.txt). `perplexity`: exp of the mean loss."""

    perplexity: float
    tokens_per_s: float


def measure(path: Path, *, threads: int, keys: str = ORIGINAL.keys) -> Measurement:
    """Decode the texts on the CPU. Raises ModelNotFound if llama.cpp cannot load the file."""
    config = ContextConfig(cells=MEASURED_CELLS, max_sequences=1, threads=threads, keys=keys)
    losses: list[float] = []
    seconds = 0.0
    with (
        closing(Weights(path, gpu_layers=0, repack=repacking_works(path))) as weights,
        closing(LlamaContext(weights, config)) as context,
    ):
        for text in sample_texts():
            tokens = weights.encode(text, begin=True)
            context.drop(0, start=0)
            for start in range(0, len(tokens) - 1, MEASURED_BATCH):
                targets = tokens[start + 1 : start + 1 + MEASURED_BATCH]
                batch = [BatchToken(tokens[at], at, 0, logits=True) for at in range(start, start + len(targets))]
                started = time.perf_counter()
                context.decode(batch)
                seconds += time.perf_counter() - started
                losses += [_loss(context.logits(index), target) for index, target in enumerate(targets)]
    return Measurement(math.exp(statistics.fmean(losses)), len(losses) / seconds)


def _loss(logits: Logits, target: int) -> float:
    """-log p of a token."""
    values = logits.astype(np.float64)
    highest = values.max()
    return float(highest + np.log(np.exp(values - highest).sum()) - values[target])


def sample_texts() -> list[str]:
    """The texts of texts.txt, which lines of three dashes separate."""
    return [text.strip() for text in (files(__package__) / "texts.txt").read_text().split("\n---\n")]


def converted(source: WeightsFile, quantization: str, folder: Path) -> WeightsFile:
    """The source in the given quantisation; its file in the folder is written if it is missing or damaged."""
    if quantization == SOURCE:
        return source
    path = folder / f"{source.info.sha256}-{quantization}.gguf"
    digest_file = path.with_suffix(".sha256")
    if not (path.exists() and digest_file.exists() and sha256_of(path).encode() == digest_file.read_bytes()):
        _write_atomically(path, lambda temporary: quantize(source.path, temporary, quantization))
        digest = sha256_of(path)
        _write_atomically(digest_file, lambda temporary: temporary.write_text(digest))
    made = Quantization(type=quantization, sha256=digest_file.read_text())
    return replace(source, path=path, info=replace(source.info, quantization=made))


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """The caller holds the lock, so only a killed process leaves a temporary file, which the next one replaces."""
    temporary = path.with_name(f"{path.name}.part")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remembered(info: ModelInfo, threads: int, folder: Path) -> Layout | None:
    """The layout chosen on this machine with this llama.cpp version and number of threads; None if there is none."""
    return _read_choice(_choice_file(info, threads, folder))


def remember(layout: Layout, info: ModelInfo, threads: int, folder: Path) -> None:
    """Save a choice, and delete the converted files of these weights that no machine's choice uses."""
    content = json.dumps({"machine": _machine(threads), "chosen": asdict(layout)}, indent=1)
    _write_atomically(_choice_file(info, threads, folder), lambda temporary: temporary.write_text(content))
    choices = map(_read_choice, folder.glob(f"{info.sha256}-choice-*.json"))
    used = {choice.quantization for choice in choices if choice is not None}
    for quantization in set(QUANTIZATIONS) - used:
        for suffix in ("gguf", "sha256"):
            (folder / f"{info.sha256}-{quantization}.{suffix}").unlink(missing_ok=True)


def _choice_file(info: ModelInfo, threads: int, folder: Path) -> Path:
    """One file per machine and number of threads, so that services can share a folder."""
    digest = hashlib.sha256(_machine(threads).encode()).hexdigest()[:12]
    return folder / f"{info.sha256}-choice-{digest}.json"


def _read_choice(path: Path) -> Layout | None:
    try:
        layout = Layout(**json.loads(path.read_text())["chosen"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    known = layout.quantization in (SOURCE, *QUANTIZATIONS) and layout.keys in tuple(CACHE_TYPES)
    return layout if known else None


def _machine(threads: int) -> str:
    """The conditions of a measurement: CPU, threads and llama.cpp version."""
    return f"{cpu_info('model name') or platform.machine()}, {threads} threads, {NAME}"
