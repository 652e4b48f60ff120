"""From settings to a running engine: which weights, how large a cache, and what to say about it."""

import logging
from dataclasses import replace
from pathlib import Path

from dermnote_notegen.engine.batching import BatchEngine
from dermnote_notegen.engine.llama import MOST_LANES, Shape, Weights
from dermnote_notegen.engine.model import Origin, find_weights
from dermnote_notegen.engine.tuning import Tuned, tune
from dermnote_notegen.settings import Settings

log = logging.getLogger(__name__)
# Lanes beyond the running ones hold branches that later requests may go on from.
LANES_PER_SLOT = 8
MOST_BYTES_UNASKED = 2**30


def load(settings: Settings) -> BatchEngine:
    """The engine that the settings describe; raises ModelNotFound."""
    name, path, sha256 = find_weights(settings.model)
    shape = Shape(
        cells=settings.engine_cells,
        lanes=min(settings.engine_slots * LANES_PER_SLOT, MOST_LANES),
        threads=settings.engine_threads,
    )
    tuned = Tuned(path, Origin(name, sha256), shape.keys)
    if _worth_tuning(settings, path):
        tuned = tune(path, tuned.origin, shape=shape, folder=settings.cache_dir, wanted=settings.requantize)
    weights = Weights(tuned.path)
    engine = BatchEngine(
        weights,
        replace(shape, keys=tuned.keys),
        origin=tuned.origin,
        slots=settings.engine_slots,
        context_tokens=settings.context_tokens,
    )
    _tell(engine, weights)
    return engine


def _worth_tuning(settings: Settings, path: Path) -> bool:
    """Large weights would be rewritten for minutes and gigabytes: only where a layout is asked for by name."""
    if settings.requantize == "off":
        return False
    return settings.requantize != "auto" or path.stat().st_size <= MOST_BYTES_UNASKED


def _tell(engine: BatchEngine, weights: Weights) -> None:
    if weights.unshared_memory is not None:
        log.warning("prefixes are not shared between requests: %s", weights.unshared_memory)
    if weights.window:
        log.info("some layers look back on %d tokens only; their cache is kept whole", weights.window)
    log.info("%s", ", ".join(f"{name} {value}" for name, value in engine.info().items()))
