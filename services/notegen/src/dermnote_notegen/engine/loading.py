"""From settings to a running engine: which weights, how large a cache, and what to say about it."""

import logging
from pathlib import Path

from dermnote_notegen.engine.batching import BatchEngine
from dermnote_notegen.engine.llama import Shape, Weights
from dermnote_notegen.engine.model import Origin, find_weights
from dermnote_notegen.settings import Settings

log = logging.getLogger(__name__)
# Lanes beyond the running ones hold branches that later requests may go on from.
LANES_PER_SLOT = 4


def load(settings: Settings) -> BatchEngine:
    """The engine that the settings describe; raises ModelNotFound."""
    name, path, sha256 = find_weights(settings.model)
    return _engine(settings, path, Origin(name, sha256))


def _engine(settings: Settings, path: Path, origin: Origin) -> BatchEngine:
    weights = Weights(path)
    slots = settings.engine_slots
    shape = Shape(
        cells=settings.engine_cells,
        lanes=slots * LANES_PER_SLOT if weights.unshared_memory is None else slots,
        threads=settings.engine_threads,
    )
    engine = BatchEngine(weights, shape, origin=origin, slots=slots, context_tokens=settings.context_tokens)
    if weights.unshared_memory is not None:
        log.warning("%s: prefixes are not shared between requests: %s", origin.name, weights.unshared_memory)
    if weights.window:
        log.info("%s looks back on %d tokens in some layers; their cache is kept whole", origin.name, weights.window)
    log.info("%s: %d slots, %d cells, %d threads", origin.name, slots, shape.cells, shape.threads)
    return engine
