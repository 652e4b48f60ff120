"""ONNX graphs from a model folder, without torch. The only file that imports onnxruntime.

A folder holds manifest.json, image.onnx, text.onnx and tokenizer.json. Heads are inside the graphs:
vector = normalise(graph(x)). The text graph's metadata name the token that pads.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image

from dermnote_contracts.manifest import IMAGE_GRAPH, PADDING, PIXELS, TEXT_GRAPH, TOKENS, ModelManifest
from dermnote_contracts.problems import ModelRefused
from dermnote_retrieval.encoder.inputs import TOKENIZER, TokenReader, fit, pixels_of
from dermnote_retrieval.encoder.protocol import Vectors, check_vectors, refusing, unit_rows

NEEDED = (IMAGE_GRAPH, TEXT_GRAPH, TOKENIZER)
CUDA = "CUDAExecutionProvider"
_PROVIDERS = (CUDA, "CPUExecutionProvider")


class OnnxEncoder:
    """Two graphs and a tokenizer: all from one folder that was checked against its manifest."""

    def __init__(self, folder: Path, manifest: ModelManifest, *, threads: int) -> None:
        self._manifest = manifest
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="onnx")
        with refusing(manifest):
            self._image = _session(folder / IMAGE_GRAPH, threads=threads)
            self._each = _session(folder / IMAGE_GRAPH, threads=1) if threads > 1 else self._image
            self._text = _session(folder / TEXT_GRAPH, threads=threads)
            self._tokens = TokenReader(folder, pad_id=_pad_id(self._text), context_tokens=manifest.context_tokens)
            check_vectors(self)

    @property
    def manifest(self) -> ModelManifest:
        return self._manifest

    def fit(self, image: Image.Image) -> Image.Image:
        return fit(image, self._manifest.preprocessing)

    def encode_images(self, images: Sequence[Image.Image]) -> Vectors:
        if not images:
            return np.empty((0, self._manifest.image_dim), np.float32)
        pixels = pixels_of(images, self._manifest.preprocessing)
        if len(images) == 1 or CUDA in self._image.get_providers():
            return _vectors(self._image, {PIXELS: pixels})
        # A picture's activations fit into a core's cache and a batch's don't: each picture has a core to itself.
        rows = self._pool.map(lambda one: _vectors(self._each, {PIXELS: one[None]}), pixels)
        return np.concatenate(list(rows))

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.empty((0, self._manifest.text_dim), np.float32)
        return _vectors(self._text, {TOKENS: self._tokens(texts)})

    def close(self) -> None:
        """Nothing to let go of: graphs and threads go with the object."""


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


def _vectors(session: onnxruntime.InferenceSession, feed: Mapping[str, npt.NDArray[Any]]) -> Vectors:
    (rows,) = session.run(None, dict(feed))
    return unit_rows(rows)
