"""Vectors made elsewhere, as they arrive: a list of numbers, or base64 of float32 in little-endian order."""

import base64
import binascii
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dermnote_contracts.problems import FieldError, InvalidRequest
from dermnote_contracts.retrieval import MAX_VECTOR

Vectors = npt.NDArray[np.float32]


def read_vector(given: Sequence[float] | str, *, at: str) -> Vectors:
    """A vector [dim] of length 1; raises InvalidRequest for what gives no direction."""
    values = _from_base64(given, at=at) if isinstance(given, str) else np.asarray(given, dtype=np.float64)
    if not 1 <= len(values) <= MAX_VECTOR:
        raise _refused(at, f"must have 1 to {MAX_VECTOR} values")
    largest = np.abs(values).max()
    if not np.isfinite(largest) or largest == 0:
        raise _refused(at, "gives no direction: its values must be finite, and not all zero")
    scaled = values / largest
    unit: Vectors = (scaled / np.linalg.norm(scaled)).astype(np.float32)
    return unit


def write_vector(vector: Vectors) -> str:
    """Base64 of a vector's float32 in little-endian order."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")


def _from_base64(text: str, *, at: str) -> npt.NDArray[np.float64]:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as wrong:
        raise _refused(at, "is neither a list of numbers nor base64") from wrong
    if len(raw) % 4:
        raise _refused(at, "is base64, but not of whole float32 values")
    return np.frombuffer(raw, "<f4").astype(np.float64)


def _refused(at: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{at}: {message}", errors=[FieldError(field=at, message=message)])
