"""Weights in the layout that this CPU is fast with: made once from the GGUF, measured, and refused where they say less.

Choosing is values in, values out; what is measured comes from llama.py.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from dermnote_contracts.notes import Quantization
from dermnote_notegen.engine.llama import NAME, LlamaContext, Shape, Weights, quantize
from dermnote_notegen.engine.model import ModelNotFound, Origin, sha256_of
from dermnote_notegen.engine.tune.measuring import rows_per_second, token_losses

log = logging.getLogger(__name__)
SOURCE = "source"
# Layouts for which llama.cpp has fast CPU kernels on one machine or another; which, only measuring tells.
CANDIDATES = ("BF16", "Q8_0", "Q4_0")
CACHES = ("f16", "bf16")
MOST_LOSS = 0.02
LEAST_GAIN = 1.05
ROUNDS = 2
MEASURED_CELLS, MEASURED_LANES = 1024, 17
LOCK = "lock"


@dataclass(frozen=True)
class Layout:
    """A type of the weights ("source": as they came) with a type of the cache's keys."""

    quantization: str
    keys: str

    def __str__(self) -> str:
        return f"{self.quantization} weights with {self.keys} keys"


AS_IT_CAME = Layout(SOURCE, "f16")


def choose(speeds: Mapping[Layout, float], perplexity: Callable[[Layout], float]) -> Layout:
    """The fastest layout whose perplexity is at most 2 % above that of the weights as they came.

    `speeds`: tokens a second. It stays as it came where nothing is 5 % faster.
    """
    worth = [layout for layout in speeds if speeds[layout] >= speeds[AS_IT_CAME] * LEAST_GAIN]
    most = perplexity(AS_IT_CAME) * (1 + MOST_LOSS) if worth else 0.0
    for layout in sorted(worth, key=lambda one: -speeds[one]):
        if perplexity(layout) <= most:
            return layout
    return AS_IT_CAME


@dataclass(frozen=True)
class Tuned:
    """The file to load, where it comes from, and the type of the cache's keys."""

    path: Path
    origin: Origin
    keys: str


def tune(path: Path, origin: Origin, *, shape: Shape, folder: Path, wanted: str = "auto") -> Tuned:
    """The weights in the layout that `wanted` names; "auto": the best on this machine, measured once and remembered.

    Layouts that lose are deleted. One engine at a time does this in a folder; others wait and find what it chose. An
    unusable folder costs the gain, not the start.
    """
    source = Tuned(path, origin, shape.keys)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(folder):
            return _tuned(source, shape, folder, wanted)
    except OSError as error:
        log.warning("%s runs as it is: no layout can be kept in %s: %s", origin.name, folder, error.strerror)
        return source


def _tuned(source: Tuned, shape: Shape, folder: Path, wanted: str) -> Tuned:
    if wanted != "auto":
        return _made(source, wanted.upper(), folder)
    chosen = _remembered(source.origin, shape, folder)
    if chosen is None:
        chosen = _measured(source, shape, folder)
        _remember(chosen, source.origin, shape, folder)
    return replace(_made(source, chosen.quantization, folder), keys=chosen.keys)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """No other engine measures, writes or deletes there; two at once would spoil each other's measurements too."""
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another engine is looking for a layout; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _measured(source: Tuned, shape: Shape, folder: Path) -> Layout:
    """The best layout here: speeds in turns, then perplexities from the fastest on. What can't be loaded is none."""
    log.info("looking for the weights' fastest layout on this machine (once)")
    shape = replace(shape, cells=MEASURED_CELLS, lanes=MEASURED_LANES)
    made = {name: _made(source, name, folder).path for name in (SOURCE, *CANDIDATES)}
    seen: dict[Layout, list[float]] = {}
    for _ in range(ROUNDS):
        for name, path in made.items():
            for layout, speed in _speeds(name, path, shape).items():
                seen.setdefault(layout, []).append(speed)
    speeds = {layout: statistics.median(found) for layout, found in seen.items()}
    for layout, speed in speeds.items():
        log.info("%s: %.0f tokens/s", layout, speed)

    def told(layout: Layout) -> float:
        with loaded(made[layout.quantization]) as weights:
            found = perplexity(weights, replace(shape, keys=layout.keys))
        log.info("%s: perplexity %.2f", layout, found)
        return found

    return choose(speeds, told)


@contextmanager
def loaded(path: Path) -> Iterator[Weights]:
    """Weights in the CPU's memory that are freed again."""
    weights = Weights(path, gpu_layers=0)
    try:
        yield weights
    finally:
        weights.close()


def perplexity(weights: Weights, shape: Shape) -> float:
    """exp of the mean loss a token, over prompts and notes like ours (engine/texts.txt)."""
    context = LlamaContext(weights, shape)
    try:
        losses = [loss for text in sample_texts() for loss in token_losses(weights, context, text)]
    finally:
        context.close()
    return math.exp(statistics.fmean(losses))


@cache
def sample_texts() -> tuple[str, ...]:
    """The texts that perplexity is measured on, separated by lines of three dashes in the file."""
    whole = (files(__package__) / "texts.txt").read_text()
    return tuple(text.strip() for text in whole.split("\n---\n") if text.strip())


def _speeds(name: str, path: Path, shape: Shape) -> dict[Layout, float]:
    """Tokens a second with each type of keys; none for a layout that llama.cpp refuses to load."""
    try:
        with loaded(path) as weights:
            return {Layout(name, keys): _speed(weights, replace(shape, keys=keys)) for keys in CACHES}
    except ModelNotFound as error:
        if name == SOURCE:
            raise
        log.warning("%s is no choice: %s", name, error)
        return {}


def _speed(weights: Weights, shape: Shape) -> float:
    context = LlamaContext(weights, shape)
    try:
        return rows_per_second(weights, context)
    finally:
        context.close()


def _made(source: Tuned, name: str, folder: Path) -> Tuned:
    """The source in a layout, from the folder or made now; whole or not there."""
    if name == SOURCE:
        return source
    path = folder / f"{source.origin.sha256}-{name}.gguf"
    note = path.with_suffix(".sha256")
    if not (path.exists() and note.exists() and sha256_of(path) == note.read_text()):
        _atomically(path, lambda temporary: quantize(source.path, temporary, name))
        _atomically(note, lambda temporary: temporary.write_text(sha256_of(path)))
    made = Quantization(type=name, sha256=note.read_text())
    return replace(source, path=path, origin=replace(source.origin, quantization=made))


def _atomically(path: Path, write: Callable[[Path], object]) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _choice_file(origin: Origin, shape: Shape, folder: Path) -> Path:
    """Each machine's and number of threads' own, so that services that share a folder keep each other's choice."""
    digest = hashlib.sha256(machine(shape).encode()).hexdigest()[:12]
    return folder / f"{origin.sha256}-choice-{digest}.json"


def _remembered(origin: Origin, shape: Shape, folder: Path) -> Layout | None:
    """What was chosen on this very machine with this llama.cpp and as many threads."""
    return _read(_choice_file(origin, shape, folder))


def _read(choice: Path) -> Layout | None:
    try:
        return Layout(**json.loads(choice.read_text())["chosen"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(chosen: Layout, origin: Origin, shape: Shape, folder: Path) -> None:
    """Keep a choice; layouts that no choice of these weights names are deleted."""
    kept = json.dumps({"machine": machine(shape), "chosen": asdict(chosen)}, indent=1)
    _atomically(_choice_file(origin, shape, folder), lambda temporary: temporary.write_text(kept))
    choices = map(_read, folder.glob(f"{origin.sha256}-choice-*.json"))
    wanted = {layout.quantization for layout in choices if layout is not None}
    for name in set(CANDIDATES) - wanted:
        for suffix in ("gguf", "sha256"):
            (folder / f"{origin.sha256}-{name}.{suffix}").unlink(missing_ok=True)


def machine(shape: Shape) -> str:
    """What a measurement is true for: CPU, threads and llama.cpp."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{cpu}, {shape.threads} threads, {NAME}"
