"""What comes in for one item, validated and made ready: text checked, metadata normalised, the image decoded."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic_core import from_json

from dermnote_contracts.metadata import normalise_known
from dermnote_contracts.problems import InvalidRequest, field_errors
from dermnote_contracts.retrieval import Group, ItemId, Route
from dermnote_retrieval.encoder.protocol import Vectors
from dermnote_retrieval.encoder.vector_codec import read_vector
from dermnote_retrieval.ingest.images import Decoder, Picture

MAX_NOTE_CHARS = 20_000
MAX_METADATA_VALUES = 256
MAX_MODEL_CHARS = 200
GivenVector = list[float] | str
Note = Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_NOTE_CHARS)]


@dataclass(frozen=True)
class Record:
    """One item, ready to be encoded and stored."""

    id: str
    note: str | None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None
    picture: Picture | None = None
    vectors: Mapping[Route, Vectors] = field(default_factory=dict)
    """Made elsewhere, each [dim] of length 1, by the model `model_id`."""
    model_id: str | None = None

    def digest(self) -> str:
        """Equal for records that hold the same."""
        told = hashlib.sha256()
        vectors = [(route, self.vectors[route].tobytes().hex()) for route in sorted(self.vectors)]
        fields = [self.note, self.metadata, self.group, vectors, self.model_id if vectors else None]
        told.update(json.dumps(fields, sort_keys=True).encode())
        told.update(b"" if self.picture is None else self.picture.image)
        return told.hexdigest()

    def routes(self) -> set[Route]:
        """By which it will be found."""
        found = set(self.vectors)
        if self.note is not None:
            found.add("notes")
        if self.picture is not None:
            found.add("images")
        return found


class OwnVectors(BaseModel):
    """Vectors that an item brings, and the `model_id` of the model that made them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_vector: GivenVector | None = None
    note_vector: GivenVector | None = None
    model: Annotated[str, StringConstraints(max_length=MAX_MODEL_CHARS)] | None = None


class RecordFields(OwnVectors):
    """An item's fields that are not its image, as they arrive."""

    id: ItemId
    note: Note | None = None
    metadata: dict[str, Any] | None = None
    group: Group | None = None


def make_record(fields: Mapping[str, Any], *, image: bytes | IO[bytes] | None, decoder: Decoder) -> Record:
    """Validate the fields of RecordFields and the image's bytes or open file; raises InvalidRequest or ImageRefused."""
    try:
        given = RecordFields.model_validate(fields)
        metadata = normalise_known(given.metadata or {})
    except ValidationError as wrong:
        raise InvalidRequest("see errors", errors=field_errors(wrong.errors())) from wrong
    _check_values(metadata)
    for name, text in (("note", given.note), ("group", given.group), ("model", given.model)):
        _check_text(text or "", at=name)
    note = given.note or None
    vectors = _given_vectors(given)
    if note is None and image is None and not metadata and given.group is None and not vectors:
        raise InvalidRequest("give at least one of image, note, metadata, group and a vector")
    picture = None if image is None else decoder.picture(image)
    return Record(
        id=given.id,
        note=note,
        metadata=metadata,
        group=given.group,
        picture=picture,
        vectors=vectors,
        model_id=given.model,
    )


def _given_vectors(given: RecordFields) -> dict[Route, Vectors]:
    vectors: dict[Route, Vectors] = {}
    if given.note_vector is not None:
        vectors["notes"] = read_vector(given.note_vector, at="note_vector")
    if given.image_vector is not None:
        vectors["images"] = read_vector(given.image_vector, at="image_vector")
    if vectors and given.model is None:
        raise InvalidRequest.at("model", "must say which model made the vectors")
    return vectors


def parse_json(text: str | bytes, *, at: str) -> Any:
    """Strict JSON (no NaN, bounded depth); raises InvalidRequest naming the field."""
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as wrong:
        raise InvalidRequest.at(at, f"is not valid JSON: {wrong}") from wrong


def _check_values(metadata: Mapping[str, Any]) -> None:
    """Extra keys are kept as they are, as long as the store can hold and compare them."""
    for seen, (path, value) in enumerate(_unfold("metadata", metadata)):
        if seen >= MAX_METADATA_VALUES:
            raise InvalidRequest.at("metadata", f"holds more than {MAX_METADATA_VALUES} values")
        _check_text(path, at="metadata")
        if isinstance(value, str):
            _check_text(value, at=path)
        elif isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequest.at(path, "numbers must be finite")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InvalidRequest.at(path, "numbers must fit 64 bits")


def _unfold(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _unfold(f"{path}.{key}", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _unfold(path, inner)
    yield path, value


def _check_text(text: str, *, at: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as wrong:
        raise InvalidRequest.at(at.encode("ascii", "replace").decode(), "is not valid Unicode text") from wrong
    if "\0" in text:
        raise InvalidRequest.at(at.replace("\0", "?"), "must not hold a NUL character")
