"""From settings to a running engine: which weights, how large a cache, and what to say about it."""

import logging
from dataclasses import replace
from pathlib import Path

from dermnote_notegen.engine.engine import BatchEngine
from dermnote_notegen.engine.llama import ALL_LAYERS, MOST_LANES, Shape, Weights, on_gpu
from dermnote_notegen.engine.model import ModelNotFound, Origin, find_weights
from dermnote_notegen.engine.tune.layouts import Tuned, tune
from dermnote_notegen.settings import Settings

log = logging.getLogger(__name__)
# Lanes beyond the running ones hold branches that later requests may go on from.
LANES_PER_SLOT = 8
MOST_BYTES_UNASKED = 2**30


def load(settings: Settings) -> BatchEngine:
    """The engine that the settings describe; raises ModelNotFound."""
    name, path, sha256 = find_weights(settings.model)
    shape = Shape(cells=settings.engine_cells, lanes=1, threads=settings.engine_threads)
    tuned = source = Tuned(path, Origin(name, sha256), shape.keys)
    if _worth_tuning(settings, path):
        tuned = tune(path, source.origin, shape=shape, folder=settings.cache_dir, wanted=settings.requantize)
    weights, tuned = _loaded(tuned, source, gpu_layers=settings.gpu_layers)
    engine = BatchEngine(
        weights,
        replace(shape, keys=tuned.keys, lanes=_lanes(weights, settings.engine_slots)),
        origin=tuned.origin,
        slots=settings.engine_slots,
        context_tokens=settings.context_tokens,
    )
    _tell(engine, weights, settings)
    return engine


def _loaded(tuned: Tuned, source: Tuned, *, gpu_layers: int | None) -> tuple[Weights, Tuned]:
    """The tuned weights; those that they were made of where another process has just deleted them."""
    try:
        return Weights(tuned.path, gpu_layers=gpu_layers), tuned
    except ModelNotFound as missing:
        if tuned.path == source.path:
            raise
        log.warning("%s runs as it is: %s", source.origin.name, missing)
        return Weights(source.path, gpu_layers=gpu_layers), source


def _lanes(weights: Weights, slots: int) -> int:
    """Lanes for so many requests at a time. Where nothing is shared no branch is kept, and each lane costs a state."""
    if weights.unshared_memory is not None:
        return min(slots + 1, MOST_LANES)
    return min(slots * LANES_PER_SLOT, MOST_LANES)


def _worth_tuning(settings: Settings, path: Path) -> bool:
    """Large weights would be rewritten for minutes, and what a GPU computes is not measured here.

    Both only where a layout is asked for by name.
    """
    if settings.requantize == "off":
        return False
    if settings.requantize != "auto":
        return True
    return path.stat().st_size <= MOST_BYTES_UNASKED and not on_gpu(settings.gpu_layers)


def _tell(engine: BatchEngine, weights: Weights, settings: Settings) -> None:
    if weights.unshared_memory is not None:
        log.warning("prefixes are not shared between requests: %s", weights.unshared_memory)
    if weights.window:
        log.info("some layers look back on %d tokens only; their cache is kept whole", weights.window)
    if settings.context_tokens > weights.trained_context:
        log.warning(
            "NOTEGEN_CONTEXT_TOKENS is %d, but the model was trained on %d tokens: beyond them it may write nonsense",
            settings.context_tokens,
            weights.trained_context,
        )
    _tell_gpu(weights, asked=settings.gpu_layers)
    log.info("%s", ", ".join(f"{name} {value}" for name, value in engine.info().items()))


def _tell_gpu(weights: Weights, *, asked: int | None) -> None:
    if weights.gpu_layers:
        log.info("%s layers run on the GPU", "all" if weights.gpu_layers == ALL_LAYERS else weights.gpu_layers)
    elif asked:
        log.warning("NOTEGEN_GPU_LAYERS is %d, but this llama-cpp-python was built without a GPU", asked)
