"""Vectors made elsewhere, as they arrive: a list of numbers, or base64 of float32 in little-endian order."""

import base64
import binascii
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dermnote_contracts.problems import InvalidRequest
from dermnote_contracts.retrieval import MAX_VECTOR
from dermnote_retrieval.encoder.protocol import Vectors, unit_rows


def read_vector(given: Sequence[float] | str, *, at: str) -> Vectors:
    """A vector [dim] of length 1; raises InvalidRequest for what gives no direction."""
    values = _from_base64(given, at=at) if isinstance(given, str) else np.asarray(given, dtype=np.float64)
    if not 1 <= len(values) <= MAX_VECTOR:
        raise InvalidRequest.at(at, f"must have 1 to {MAX_VECTOR} values")
    (unit,) = unit_rows(values[None])
    if not np.isfinite(unit).all():
        raise InvalidRequest.at(at, "gives no direction: its values must be finite, and not all zero")
    return np.asarray(unit)


def write_vector(vector: Vectors) -> str:
    """Base64 of a vector's float32 in little-endian order."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")


def _from_base64(text: str, *, at: str) -> npt.NDArray[np.float64]:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as wrong:
        raise InvalidRequest.at(at, "is neither a list of numbers nor base64") from wrong
    if len(raw) % 4:
        raise InvalidRequest.at(at, "is base64, but not of whole float32 values")
    return np.frombuffer(raw, "<f4").astype(np.float64)
