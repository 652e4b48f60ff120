"""Builds the engine from the settings: selects the weights, sizes the cache, and logs the result."""

import logging

from dermnote_contracts.problems import StartRefused
from dermnote_notegen.engine.amx_probe import repacking_works
from dermnote_notegen.engine.engine import LLMEngine
from dermnote_notegen.engine.llama import ALL_LAYERS, MAX_SEQUENCES, ContextConfig, Weights, offloaded_layers
from dermnote_notegen.engine.model import ModelInfo, ModelNotFound, find_weights
from dermnote_notegen.engine.tune.layouts import WeightsFile, select_weights
from dermnote_notegen.settings import Settings

log = logging.getLogger(__name__)
# Sequences that run no request hold branches of the prefix cache, which later requests may continue.
SEQUENCES_PER_SLOT = 8


def load(settings: Settings) -> LLMEngine:
    """The engine that the settings describe; raises ModelNotFound, or StartRefused if memory is insufficient."""
    name, path, sha256 = find_weights(settings.model)
    selected = original = WeightsFile(path, ModelInfo(name, sha256))
    on_gpu = bool(offloaded_layers(settings.gpu_layers))
    if settings.requantize != "off" and not (settings.requantize == "auto" and on_gpu):
        selected = select_weights(
            selected, threads=settings.engine_threads, folder=settings.cache_dir, requantize=settings.requantize
        )
    try:
        weights = _load_weights(selected, settings)
    except ModelNotFound as error:
        if selected == original:
            raise
        log.warning("%s runs in its original layout: %s", name, error)  # another process has deleted the converted file
        selected = original
        weights = _load_weights(selected, settings)
    config = ContextConfig(
        cells=settings.engine_cells,
        max_sequences=_max_sequences(weights, settings.engine_slots),
        threads=settings.engine_threads,
        keys=selected.keys,
    )
    try:
        engine = LLMEngine(
            weights,
            config,
            model_info=selected.info,
            slots=settings.engine_slots,
            context_tokens=settings.context_tokens,
        )
    except MemoryError as error:
        raise StartRefused(f"{error}; lower NOTEGEN_CONTEXT_TOKENS or NOTEGEN_CACHE_TOKENS") from error
    _log_start(engine, weights, settings)
    return engine


def _load_weights(selected: WeightsFile, settings: Settings) -> Weights:
    return Weights(selected.path, gpu_layers=settings.gpu_layers, repack=repacking_works(selected.path))


def _max_sequences(weights: Weights, slots: int) -> int:
    """Number of sequences for `slots` concurrent requests.

    A model that cannot share prefixes keeps no branches, and each of its sequences costs memory for a state.
    """
    if weights.no_sharing_reason is not None:
        return min(slots + 1, MAX_SEQUENCES)
    return min(slots * SEQUENCES_PER_SLOT, MAX_SEQUENCES)


def _log_start(engine: LLMEngine, weights: Weights, settings: Settings) -> None:
    if weights.no_sharing_reason is not None:
        log.warning("prefixes are not shared between requests: %s", weights.no_sharing_reason)
    if weights.window:
        log.info("some layers attend to the last %d tokens only; their cache is kept in full", weights.window)
    if settings.context_tokens > weights.trained_context:
        log.warning(
            "NOTEGEN_CONTEXT_TOKENS is %d, but the model was trained on %d tokens: longer texts may be nonsense",
            settings.context_tokens,
            weights.trained_context,
        )
    if weights.gpu_layers:
        log.info("%s layers run on the GPU", "all" if weights.gpu_layers == ALL_LAYERS else weights.gpu_layers)
    elif settings.gpu_layers:
        log.warning(
            "NOTEGEN_GPU_LAYERS is %d, but this llama-cpp-python was built without GPU support", settings.gpu_layers
        )
    log.info("%s", ", ".join(f"{name} {value}" for name, value in engine.info().items()))
