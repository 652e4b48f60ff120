"""llama.cpp through llama-cpp-python, which only this file imports: weights, their vocabulary, and contexts."""

import ctypes
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import llama_cpp
import numpy as np
from llguidance.llamacpp import lltokenizer_from_vocab
from numpy.typing import NDArray

from dermnote_notegen.engine.model import BatchToken, CacheFull, ContextBroken, ModelNotFound
from dermnote_notegen.engine.sampling import Logits, Vocabulary

log = logging.getLogger(__name__)
NAME = f"llama-cpp-python {llama_cpp.__version__}"
ERROR_LEVEL = 4
# Return values of llama_decode.
DECODED, NO_FREE_CELLS = 0, 1
# llama.cpp's limit of sequences per context.
MAX_SEQUENCES = 256
# ggml's numbers for the types of cached keys and values.
CACHE_TYPES = {"f16": 1, "bf16": 30}
FLASH_ATTENTION_ON = 1
ALL_LAYERS = -1
MEASURED_CELLS = 256


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _log_error(level: int, text: bytes, _data: Any) -> None:
    if level == ERROR_LEVEL:
        log.error("%s", text.decode(errors="replace").strip())


@cache
def _initialise() -> None:
    """Send llama.cpp's errors to our log and drop its other messages."""
    llama_cpp.llama_log_set(_log_error, ctypes.c_void_p())
    llama_cpp.llama_backend_init()


@dataclass(frozen=True)
class ContextConfig:
    """`cells`: size of the cache in tokens, for all sequences together; `batch`: most tokens per `decode` call.

    `keys`: type of the cache's keys; its values are f16.
    """

    cells: int
    max_sequences: int
    threads: int
    batch: int = 512
    keys: str = "f16"


class CacheBytes(NamedTuple):
    """Bytes of a context's cache: per token, and a fixed number per sequence, whatever its length."""

    per_token: int
    per_sequence: int


def cpu_flags() -> frozenset[str]:
    """The CPU's feature flags; empty if the system does not list them."""
    return frozenset(cpu_info("flags").split())


def cpu_info(field: str) -> str:
    """A field of the first processor in /proc/cpuinfo; empty if it is missing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def offloaded_layers(configured: int | None) -> int:
    """Number of layers on the GPU: `configured`, by default all (-1); 0 if llama.cpp was built without GPU support."""
    if not llama_cpp.llama_supports_gpu_offload():
        return 0
    return ALL_LAYERS if configured is None else configured


class Weights:
    """A loaded GGUF. Raises ModelNotFound if llama.cpp cannot load the file.

    `gpu_layers`: see `offloaded_layers`; `repack`: let ggml repack the weights for this CPU, by default only if the
    CPU has no AMX, because repacking for AMX may crash (see amx_probe).
    """

    def __init__(self, path: Path, *, gpu_layers: int | None = None, repack: bool | None = None) -> None:
        _initialise()
        self.gpu_layers = offloaded_layers(gpu_layers)
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = self.gpu_layers
        params.use_extra_bufts = "amx_int8" not in cpu_flags() if repack is None else repack
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise ModelNotFound(f"{path} is not a GGUF file that {NAME} can load")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        tokenizer = lltokenizer_from_vocab(self._vocabulary)
        ends = [token for token in range(tokenizer.vocab_size) if llama_cpp.llama_vocab_is_eog(self._vocabulary, token)]
        self.vocabulary = Vocabulary(tokenizer, end_tokens=ends)

    @property
    def trained_context(self) -> int:
        """The context length in tokens that the model was trained with."""
        return int(llama_cpp.llama_model_n_ctx_train(self.model))

    @property
    def no_sharing_reason(self) -> str | None:
        """Why sequences cannot share prefixes; None if they can."""
        if llama_cpp.llama_model_is_recurrent(self.model):
            return "the model's memory is recurrent: a state cannot be cut at a prefix"
        if llama_cpp.llama_model_is_hybrid(self.model):
            return "part of the model's memory is recurrent: a state cannot be cut at a prefix"
        return None

    @property
    def window(self) -> int:
        """Tokens of the sliding attention window, 0 without one."""
        return int(llama_cpp.llama_model_n_swa(self.model))

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights."""
        return int(llama_cpp.llama_model_size(self.model))

    @cached_property
    def cache_bytes(self) -> CacheBytes:
        """Memory of the cache in 16 bit, from the size of llama.cpp's state after one token and after two.

        It is measured because architectures describe heads, head sizes and states in different metadata.
        """
        config = ContextConfig(cells=MEASURED_CELLS, max_sequences=1, threads=1, batch=1)
        with closing(LlamaContext(self, config)) as context:
            sizes = [context.state_bytes(0)]
            for position in range(2):
                context.decode([BatchToken(0, position, 0, logits=True)])
                sizes.append(context.state_bytes(0))
        empty, one, two = sizes
        per_token = two - one
        return CacheBytes(per_token, 0 if self.no_sharing_reason is None else one - empty - per_token)

    def encode(self, text: str, *, begin: bool) -> list[int]:
        """The tokens of a text; `begin`: with the beginning-of-text token, if the model has one."""
        raw = text.encode()
        size = len(raw) + 8
        buffer = (llama_cpp.llama_token * size)()
        count = llama_cpp.llama_tokenize(self._vocabulary, raw, len(raw), buffer, size, begin, False)
        return list(buffer[:count])

    def close(self) -> None:
        """Free the weights; their contexts must be closed first."""
        llama_cpp.llama_model_free(self.model)


class LlamaContext:
    """One `llama_context` with a unified cache, to be used by one thread. `shares`: sequences can share prefixes."""

    def __init__(self, weights: Weights, config: ContextConfig) -> None:
        self._weights = weights
        self._config = config
        self.cells = config.cells
        self.max_sequences = min(config.max_sequences, MAX_SEQUENCES)
        self.shares = weights.no_sharing_reason is None
        self._batch = _Batch(config.batch)
        self._open()

    def _open(self) -> None:
        config = self._config
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = config.cells
        params.n_batch = params.n_ubatch = config.batch
        params.n_seq_max = self.max_sequences
        params.n_threads = params.n_threads_batch = config.threads
        params.kv_unified = True  # otherwise a partial copy between sequences aborts the process
        params.swa_full = True  # a cache that holds only the window cannot be cut at a prefix
        params.flash_attn_type = FLASH_ATTENTION_ON
        params.type_k, params.type_v = CACHE_TYPES[config.keys], CACHE_TYPES["f16"]
        params.offload_kqv = params.op_offload = self._weights.gpu_layers != 0
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._weights.model, params)
        self._memory = llama_cpp.llama_get_memory(self._context) if self._context else None
        if not self._context:
            raise MemoryError(f"llama.cpp could not create a context of {config.cells} tokens")

    def decode(self, batch: Sequence[BatchToken]) -> None:
        """Decode one batch. Raises CacheFull if too few cells are free, ContextBroken if the cache is lost."""
        if not self._context:
            raise ContextBroken("the context could not be rebuilt for lack of memory")
        status = int(llama_cpp.llama_decode(self._context, self._batch.filled(batch)))
        if status == NO_FREE_CELLS:
            raise CacheFull
        if status != DECODED:
            raise ContextBroken(f"llama_decode returned {status}")

    def logits(self, index: int) -> Logits:
        """Logits after token `index` of the last batch, shape [vocabulary]; valid until the next batch."""
        pointer = llama_cpp.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, shape=(self._weights.vocabulary.size,))

    def copy(self, source: int, target: int, *, length: int) -> None:
        """Share positions [0, length) of one sequence with another."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def drop(self, seq_id: int, *, start: int) -> None:
        """Free a sequence's positions from `start` on."""
        llama_cpp.llama_memory_seq_rm(self._memory, seq_id, start, -1)

    def length(self, seq_id: int) -> int:
        """Tokens in a sequence."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, seq_id)) + 1

    def state_bytes(self, seq_id: int) -> int:
        """Size of a sequence's serialised cells and state."""
        return int(llama_cpp.llama_state_seq_get_size(self._context, seq_id))

    def rebuild(self) -> None:
        """Replace the context with an empty one. Raises MemoryError if memory is insufficient.

        After a MemoryError, `decode` raises ContextBroken.
        """
        llama_cpp.llama_free(self._context)
        self._open()

    def close(self) -> None:
        """Free the context."""
        llama_cpp.llama_free(self._context)


def quantize(source: Path, target: Path, quantization: str) -> None:
    """Write `source` in another quantisation ("Q8_0") with llama.cpp's quantiser. Raises OSError if that fails."""
    _initialise()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quantization}")
    params.allow_requantize = True
    status = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if status:
        raise OSError(status, f"llama.cpp could not write {target} as {quantization}")


class _Batch:
    """A `llama_batch` over reusable arrays. Each token belongs to one sequence.

    `columns`: the arrays, in the field order of BatchToken.
    """

    def __init__(self, size: int) -> None:
        token, position, seq_id = (np.zeros(size, dtype=np.int32) for _ in range(3))
        logits = np.zeros(size, dtype=np.int8)
        self.columns: tuple[NDArray[Any], ...] = (token, position, seq_id, logits)
        self._ones = np.ones(size, dtype=np.int32)
        ints = ctypes.POINTER(ctypes.c_int32)
        addresses = (seq_id.ctypes.data + np.arange(size) * seq_id.itemsize).tolist()
        self._seq_ids = (ints * size)(*(ctypes.cast(address, ints) for address in addresses))
        self._struct = llama_cpp.llama_batch(
            token=token.ctypes.data_as(ints),
            embd=None,
            pos=position.ctypes.data_as(ints),
            n_seq_id=self._ones.ctypes.data_as(ints),
            seq_id=ctypes.cast(self._seq_ids, ctypes.POINTER(ints)),
            logits=logits.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def filled(self, batch: Sequence[BatchToken]) -> llama_cpp.llama_batch:
        """The llama_batch of these tokens."""
        for column, values in zip(self.columns, zip(*batch, strict=True), strict=True):
            column[: len(batch)] = values
        self._struct.n_tokens = len(batch)
        return self._struct
