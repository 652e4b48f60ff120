"""ONNX graphs from a model folder, without torch. The only file that imports onnxruntime.

A folder holds manifest.json, image.onnx, text.onnx and tokenizer.json. Heads are inside the graphs:
vector = normalise(graph(x)). The text graph's metadata name the token that pads.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from dermnote_contracts.manifest import IMAGE_GRAPH, PADDING, PIXELS, TEXT_GRAPH, TOKENS, ModelManifest
from dermnote_contracts.problems import ModelRefused
from dermnote_retrieval.encoder.inputs import TOKENIZER, FolderEncoder, TokenReader
from dermnote_retrieval.encoder.protocol import check_vectors, refusing

NEEDED = (IMAGE_GRAPH, TEXT_GRAPH, TOKENIZER)
Rows = npt.NDArray[np.float32]
CUDA = "CUDAExecutionProvider"
_PROVIDERS = (CUDA, "CPUExecutionProvider")


class OnnxEncoder(FolderEncoder):
    """Two graphs and a tokenizer: all from one folder that was checked against its manifest."""

    def __init__(self, folder: Path, manifest: ModelManifest, *, threads: int) -> None:
        super().__init__(manifest)
        # With one thread a call each goes through its pictures by itself, beside the other calls.
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="onnx") if threads > 1 else None
        with refusing(manifest):
            self._image = _session(folder / IMAGE_GRAPH, threads=threads)
            self._each = _session(folder / IMAGE_GRAPH, threads=1) if threads > 1 else self._image
            self._text = _session(folder / TEXT_GRAPH, threads=threads)
            self._tokens = TokenReader(folder, pad_id=_pad_id(self._text), context_tokens=manifest.context_tokens)
            check_vectors(self)

    def _image_rows(self, pixels: Rows) -> Rows:
        if len(pixels) == 1 or CUDA in self._image.get_providers():
            return _run(self._image, {PIXELS: pixels})
        # A picture's activations fit into a core's cache and a batch's don't: each picture has a core to itself.
        spread = map if self._pool is None else self._pool.map
        return np.concatenate(list(spread(lambda one: _run(self._each, {PIXELS: one[None]}), pixels)))

    def _text_rows(self, tokens: npt.NDArray[np.int64]) -> Rows:
        return _run(self._text, {TOKENS: tokens})


def _session(path: Path, *, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait in a loop for the next call would take the cores from decoding, FAISS and the API.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    there = onnxruntime.get_available_providers()
    return onnxruntime.InferenceSession(path, options, providers=[each for each in _PROVIDERS if each in there])


def _pad_id(session: onnxruntime.InferenceSession) -> int:
    named: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    if not named.get(PADDING, "").isdecimal():
        raise ModelRefused(f"{TEXT_GRAPH}: its metadata do not say the {PADDING}")
    return int(named[PADDING])


def _run(session: onnxruntime.InferenceSession, feed: Mapping[str, npt.NDArray[Any]]) -> Rows:
    rows: Rows
    (rows,) = session.run(None, dict(feed))
    return rows
