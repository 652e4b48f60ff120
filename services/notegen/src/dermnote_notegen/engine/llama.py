"""llama.cpp through llama-cpp-python, which only this file imports: weights, their vocabulary, contexts over them."""

import ctypes
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from llguidance.llamacpp import lltokenizer_from_vocab
from numpy.typing import NDArray

from dermnote_notegen.engine.amx_probe import repacking_works
from dermnote_notegen.engine.context import ContextBroken, PoolFull, Row
from dermnote_notegen.engine.grammar import Vocabulary
from dermnote_notegen.engine.model import ModelNotFound
from dermnote_notegen.engine.pace import Pace
from dermnote_notegen.engine.sampling import Logits

log = logging.getLogger(__name__)
NAME = f"llama-cpp-python {llama_cpp.__version__}"
ERROR_LEVEL = 4
# What llama_decode returns.
DONE, NO_ROOM = 0, 1
# llama.cpp's own limit of sequences in a context.
MOST_LANES = 256
# ggml's numbers of the types that a cache may have.
CACHE_TYPES = {"f16": 1, "q8_0": 8, "bf16": 30}
ALL_LAYERS = -1
MEASURED_CELLS = 256


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _to_log(level: int, text: bytes, _data: Any) -> None:
    if level == ERROR_LEVEL:
        log.error("%s", text.decode(errors="replace").strip())


@cache
def _begin() -> None:
    """llama.cpp's errors go to our log, the rest nowhere."""
    llama_cpp.llama_log_set(_to_log, ctypes.c_void_p())
    llama_cpp.llama_backend_init()


@dataclass(frozen=True)
class Shape:
    """How a context is made. `cells`: tokens that the cache holds, all lanes together; `batch`: those of one decode.

    `micro_batch`: tokens that llama.cpp computes at a time, all of the batch by default.
    """

    cells: int
    lanes: int
    threads: int
    batch: int = 512
    micro_batch: int | None = None
    flash_attention: bool = True
    keys: str = "f16"
    values: str = "f16"


@dataclass(frozen=True)
class Held:
    """Bytes that a context's memory takes: those of one token, and those that each lane has whatever its length."""

    token: int
    lane: int


def on_gpu(asked: int | None) -> int:
    """Layers that a GPU takes: `asked`, all (-1) by default; 0 where llama.cpp was built without one."""
    if not llama_cpp.llama_supports_gpu_offload():
        return 0
    return ALL_LAYERS if asked is None else asked


class Weights:
    """A loaded GGUF. Raises ModelNotFound for a file that llama.cpp can't load.

    `gpu_layers`: how many layers a GPU takes, as `on_gpu` says it; by default all where there is one. `repacked`:
    whether ggml may rewrite them for this CPU, by default where that is known to work (repacking.py).
    """

    def __init__(self, path: Path, *, gpu_layers: int | None = None, repacked: bool | None = None) -> None:
        _begin()
        self.gpu_layers = on_gpu(gpu_layers)
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers = self.gpu_layers
        settings.use_extra_bufts = repacking_works(path) if repacked is None else repacked
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        if not self.model:
            raise ModelNotFound(f"{path} is no GGUF that this llama.cpp can load")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        tokenizer = lltokenizer_from_vocab(self._vocabulary)
        ends = [token for token in range(tokenizer.vocab_size) if llama_cpp.llama_vocab_is_eog(self._vocabulary, token)]
        self.vocabulary = Vocabulary(tokenizer, ends=ends)

    @property
    def trained_context(self) -> int:
        """Tokens that the model was trained to look back on."""
        return int(llama_cpp.llama_model_n_ctx_train(self.model))

    @property
    def unshared_memory(self) -> str | None:
        """Why prefixes cannot be shared between sequences; None where they can."""
        if llama_cpp.llama_model_is_recurrent(self.model):
            return "its memory is recurrent: a state can't be cut at a prefix"
        if llama_cpp.llama_model_is_hybrid(self.model):
            return "part of its memory is recurrent: a state can't be cut at a prefix"
        return None

    @property
    def window(self) -> int:
        """Tokens of the sliding window of attention, 0 without one."""
        return int(llama_cpp.llama_model_n_swa(self.model))

    @property
    def bytes_(self) -> int:
        """Memory of the weights."""
        return int(llama_cpp.llama_model_size(self.model))

    @property
    def cell_bytes(self) -> int:
        """Memory of one token in the cache, in 16 bit: 0 where the memory is recurrent."""
        return self._held.token

    @property
    def lane_bytes(self) -> int:
        """Memory of one lane beside its tokens: the state of what is recurrent."""
        return self._held.lane

    @cached_property
    def _held(self) -> Held:
        """As llama.cpp counts it after one token and after two: what a file says of heads, their sizes and states is
        another matter for each architecture.
        """
        context = LlamaContext(self, Shape(cells=MEASURED_CELLS, lanes=1, threads=1, batch=1))
        try:
            sizes = [context.state_bytes(0)]
            for position in range(2):
                context.decode([Row(0, position, 0, wanted=True)])
                sizes.append(context.state_bytes(0))
        finally:
            context.close()
        empty, one, two = sizes
        token = two - one
        return Held(token, lane=0 if self.unshared_memory is None else one - empty - token)

    def encode(self, text: str, *, begin: bool) -> list[int]:
        """The tokens of a text; `begin`: with the token that begins a text, where the model has one."""
        raw = text.encode()
        room = len(raw) + 8
        buffer = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocabulary, raw, len(raw), buffer, room, begin, False)
        return list(buffer[:count])

    def close(self) -> None:
        """Free the weights; contexts over them must be closed before."""
        llama_cpp.llama_model_free(self.model)


class LlamaContext:
    """One `llama_context` with a unified cache, for one thread. `shares`: prefixes can be copied from lane to lane.

    With a `pace` a batch's threads are what is fastest just now, at most the shape's; without one they are the shape's.
    """

    def __init__(self, weights: Weights, shape: Shape, *, pace: Pace | None = None) -> None:
        self._weights = weights
        self._shape = shape
        self._pace = pace
        self.cells = shape.cells
        self.lanes = min(shape.lanes, MOST_LANES)
        self.shares = weights.unshared_memory is None
        self._batch = _Batch(shape.batch)
        self._open()

    def _open(self) -> None:
        shape = self._shape
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = shape.cells
        settings.n_batch = shape.batch
        settings.n_ubatch = shape.micro_batch or shape.batch
        settings.n_seq_max = self.lanes
        settings.n_threads = settings.n_threads_batch = shape.threads
        settings.kv_unified = True  # a partial copy between lanes aborts the process without it
        settings.swa_full = True  # a cache that keeps only the window can't be cut at a prefix
        settings.flash_attn_type = int(shape.flash_attention)
        settings.type_k, settings.type_v = CACHE_TYPES[shape.keys], CACHE_TYPES[shape.values]
        settings.offload_kqv = settings.op_offload = self._weights.gpu_layers != 0
        settings.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._weights.model, settings)
        self._memory = llama_cpp.llama_get_memory(self._context) if self._context else None
        if not self._context:
            raise MemoryError(f"llama.cpp made no context of {shape.cells} tokens")

    def decode(self, rows: Sequence[Row]) -> None:
        """One batch. Raises PoolFull where no cells are free, ContextBroken where the cache is lost."""
        if not self._context:
            raise ContextBroken("there was no memory to make it anew")
        answer = self._decoded(rows)
        if answer == NO_ROOM:
            raise PoolFull
        if answer != DONE:
            raise ContextBroken(f"llama_decode returned {answer}")

    def _decoded(self, rows: Sequence[Row]) -> int:
        batch = self._batch.filled(rows)
        if self._pace is None:
            return int(llama_cpp.llama_decode(self._context, batch))
        threads = self._pace.choose(len(rows))
        llama_cpp.llama_set_n_threads(self._context, threads, threads)
        started = time.perf_counter()
        answer = int(llama_cpp.llama_decode(self._context, batch))
        self._pace.observe(len(rows), threads=threads, seconds=time.perf_counter() - started)
        return answer

    def logits(self, index: int) -> Logits:
        """Behind row `index` of the last batch, shape [vocabulary]; valid until the next one."""
        pointer = llama_cpp.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, shape=(self._weights.vocabulary.size,))

    def copy(self, source: int, target: int, *, length: int) -> None:
        """Positions [0, length) of one lane are those of the other too."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def drop(self, lane: int, *, start: int) -> None:
        """A lane's positions from `start` on are free."""
        llama_cpp.llama_memory_seq_rm(self._memory, lane, start, -1)

    def used(self, lane: int) -> int:
        """Tokens that a lane holds."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, lane)) + 1

    def state_bytes(self, lane: int) -> int:
        """What llama.cpp would write down of a lane: its cells and its state."""
        return int(llama_cpp.llama_state_seq_get_size(self._context, lane))

    def rebuild(self) -> None:
        """A new, empty context. Raises MemoryError where there is no room for it; then there is none until it works."""
        llama_cpp.llama_free(self._context)
        self._open()

    def close(self) -> None:
        """Free the context."""
        llama_cpp.llama_free(self._context)


def quantize(source: Path, target: Path, layout: str) -> None:
    """Write `source` in another layout ("Q8_0") with llama.cpp's own quantiser. Raises OSError where that fails."""
    _begin()
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{layout}")
    settings.allow_requantize = True
    answer = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings))
    if answer:
        raise OSError(answer, f"llama.cpp could not write {target} as {layout}")


class _Batch:
    """A `llama_batch` over arrays of ours, `columns` in the order of a Row: each row has one lane."""

    def __init__(self, rows: int) -> None:
        token, position, lane = (np.zeros(rows, dtype=np.int32) for _ in range(3))
        wanted = np.zeros(rows, dtype=np.int8)
        self.columns: tuple[NDArray[Any], ...] = (token, position, lane, wanted)
        self._ones = np.ones(rows, dtype=np.int32)
        ints = ctypes.POINTER(ctypes.c_int32)
        addresses = (lane.ctypes.data + np.arange(rows) * lane.itemsize).tolist()
        self._lanes = (ints * rows)(*(ctypes.cast(address, ints) for address in addresses))
        self._struct = llama_cpp.llama_batch(
            token=token.ctypes.data_as(ints),
            embd=None,
            pos=position.ctypes.data_as(ints),
            n_seq_id=self._ones.ctypes.data_as(ints),
            seq_id=ctypes.cast(self._lanes, ctypes.POINTER(ints)),
            logits=wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def filled(self, rows: Sequence[Row]) -> llama_cpp.llama_batch:
        """The batch that holds `rows`."""
        for column, values in zip(self.columns, zip(*rows, strict=True), strict=True):
            column[: len(rows)] = values
        self._struct.n_tokens = len(rows)
        return self._struct
