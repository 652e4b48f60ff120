"""ONNX graphs from a model folder, without torch. The only file that imports onnxruntime.

A folder holds manifest.json, image.onnx, text.onnx and tokenizer.json. The graphs include the heads:
vector = normalise(graph(x)). The text graph's metadata names the padding token.
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
from dermnote_retrieval.encoder.base import TOKENIZER, BatchTokenizer, FolderEncoder, check_vectors, loading_errors

NEEDED = (IMAGE_GRAPH, TEXT_GRAPH, TOKENIZER)
Rows = npt.NDArray[np.float32]
CUDA = "CUDAExecutionProvider"
_PROVIDERS = (CUDA, "CPUExecutionProvider")


class OnnxEncoder(FolderEncoder):
    """Two graphs and a tokenizer, all from one folder that was verified against its manifest."""

    def __init__(self, folder: Path, manifest: ModelManifest, *, threads: int) -> None:
        super().__init__(manifest)
        # With one thread per call, each call encodes its images one by one, in parallel with other calls.
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="onnx") if threads > 1 else None
        with loading_errors(manifest):
            self._image = _session(folder / IMAGE_GRAPH, threads=threads)
            self._each = _session(folder / IMAGE_GRAPH, threads=1) if threads > 1 else self._image
            self._text = _session(folder / TEXT_GRAPH, threads=threads)
            self._tokenize = BatchTokenizer(folder, pad_id=_pad_id(self._text), context_tokens=manifest.context_tokens)
            check_vectors(self)

    def _image_rows(self, pixels: Rows) -> Rows:
        if len(pixels) == 1 or CUDA in self._image.get_providers():
            return _run(self._image, {PIXELS: pixels})
        # One image's activations fit into a core's cache, but a batch's do not, so each image runs on its own core.
        parallel_map = map if self._pool is None else self._pool.map
        return np.concatenate(list(parallel_map(lambda image: _run(self._each, {PIXELS: image[None]}), pixels)))

    def _text_rows(self, tokens: npt.NDArray[np.int64]) -> Rows:
        return _run(self._text, {TOKENS: tokens})


def _session(path: Path, *, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while waiting for the next call would take cores from decoding, FAISS and the API.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    available = onnxruntime.get_available_providers()
    return onnxruntime.InferenceSession(path, options, providers=[name for name in _PROVIDERS if name in available])


def _pad_id(session: onnxruntime.InferenceSession) -> int:
    metadata: Mapping[str, str] = session.get_modelmeta().custom_metadata_map
    if not metadata.get(PADDING, "").isdecimal():
        raise ModelRefused(f"{TEXT_GRAPH}: its metadata lacks {PADDING}")
    return int(metadata[PADDING])


def _run(session: onnxruntime.InferenceSession, feed: Mapping[str, npt.NDArray[Any]]) -> Rows:
    rows: Rows
    (rows,) = session.run(None, dict(feed))
    return rows
