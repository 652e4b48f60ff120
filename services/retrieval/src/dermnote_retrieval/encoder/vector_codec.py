"""Encoding of vectors in requests and answers: a list of numbers, or base64 of little-endian float32."""

import base64
import binascii
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dermnote_contracts.problems import InvalidRequest
from dermnote_contracts.retrieval import MAX_VECTOR
from dermnote_retrieval.encoder.protocol import Vectors, unit_rows


def read_vector(encoded: Sequence[float] | str, *, at: str) -> Vectors:
    """A vector [dim] of length 1; raises InvalidRequest for one without a direction."""
    values = _from_base64(encoded, at=at) if isinstance(encoded, str) else np.asarray(encoded, dtype=np.float64)
    if not 1 <= len(values) <= MAX_VECTOR:
        raise InvalidRequest.at(at, f"must have 1 to {MAX_VECTOR} values")
    (unit,) = unit_rows(values[None])
    if not np.isfinite(unit).all():
        raise InvalidRequest.at(at, "has no direction: its values must be finite, and not all zero")
    return np.asarray(unit)


def write_vector(vector: Vectors) -> str:
    """Base64 of a vector's little-endian float32 values."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")


def _from_base64(text: str, *, at: str) -> npt.NDArray[np.float64]:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest.at(at, "is neither a list of numbers nor base64") from error
    if len(raw) % 4:
        raise InvalidRequest.at(at, "is base64, but its length is not a multiple of float32's 4 bytes")
    return np.frombuffer(raw, "<f4").astype(np.float64)
