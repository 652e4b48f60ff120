"""One item as it is received: text checked, metadata normalised, the image decoded."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from dermnote_contracts.metadata import normalise_known
from dermnote_contracts.problems import InvalidRequest, field_errors
from dermnote_contracts.retrieval import Group, ItemId, Route
from dermnote_imaging.decoder import Decoder
from dermnote_imaging.stored import StoredImage
from dermnote_retrieval.encoder.base import Vectors, read_vector

MAX_NOTE_CHARS = 20_000
MAX_METADATA_VALUES = 256
MAX_MODEL_CHARS = 200
EncodedVector = list[float] | str
Note = Annotated[str, StringConstraints(strip_whitespace=True, max_length=MAX_NOTE_CHARS)]


@dataclass(frozen=True)
class Record:
    """One item, ready to be encoded and stored.

    `vectors`: computed by the client with the model `model_id`, each [dim] of length 1.
    """

    id: str
    note: str | None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None
    image: StoredImage | None = None
    vectors: Mapping[Route, Vectors] = field(default_factory=dict)
    model_id: str | None = None

    def digest(self) -> str:
        """Equal for records with the same content."""
        vectors = [(route, self.vectors[route].tobytes().hex()) for route in sorted(self.vectors)]
        fields = [self.note, self.metadata, self.group, vectors, self.model_id if vectors else None]
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
        digest.update(b"" if self.image is None else self.image.jpeg)
        return digest.hexdigest()

    def routes(self) -> set[Route]:
        """The routes by which the item can be found."""
        routes = set(self.vectors)
        if self.note is not None:
            routes.add("notes")
        if self.image is not None:
            routes.add("images")
        return routes


class ClientVectors(BaseModel):
    """Vectors sent with an item, and the `model_id` of the model that computed them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_vector: EncodedVector | None = None
    note_vector: EncodedVector | None = None
    model: Annotated[str, StringConstraints(max_length=MAX_MODEL_CHARS)] | None = None


class RecordFields(ClientVectors):
    """An item's fields other than its image, as received."""

    id: ItemId
    note: Note | None = None
    metadata: dict[str, Any] | None = None
    group: Group | None = None


def make_record(fields: Mapping[str, Any], *, image: bytes | IO[bytes] | None, decoder: Decoder) -> Record:
    """Validate the fields of RecordFields and the image's bytes or open file; raises InvalidRequest or ImageRefused."""
    try:
        valid = RecordFields.model_validate(fields)
        metadata = normalise_known(valid.metadata or {})
    except ValidationError as error:
        raise InvalidRequest("see errors", errors=field_errors(error.errors())) from error
    _check_values(metadata)
    for name, text in (("note", valid.note), ("group", valid.group), ("model", valid.model)):
        _check_text(text or "", at=name)
    vectors = _client_vectors(valid)
    note = valid.note or None
    if note is None and image is None and not metadata and valid.group is None and not vectors:
        raise InvalidRequest("give at least one of image, note, metadata, group and a vector")
    return Record(
        id=valid.id,
        note=note,
        metadata=metadata,
        group=valid.group,
        image=None if image is None else StoredImage.of(decoder.decode(image)),
        vectors=vectors,
        model_id=valid.model,
    )


def _client_vectors(fields: ClientVectors) -> dict[Route, Vectors]:
    vectors: dict[Route, Vectors] = {}
    if fields.note_vector is not None:
        vectors["notes"] = read_vector(fields.note_vector, at="note_vector")
    if fields.image_vector is not None:
        vectors["images"] = read_vector(fields.image_vector, at="image_vector")
    if vectors and fields.model is None:
        raise InvalidRequest.at("model", "must name the model that computed the vectors")
    return vectors


def _check_values(metadata: Mapping[str, Any]) -> None:
    """Verify that the store can hold and compare all values, including those of unknown keys, which stay unchanged."""
    for count, (path, value) in enumerate(_unfold("metadata", metadata)):
        if count >= MAX_METADATA_VALUES:
            raise InvalidRequest.at("metadata", f"has more than {MAX_METADATA_VALUES} values")
        _check_text(path, at="metadata")
        if isinstance(value, str):
            _check_text(value, at=path)
        elif isinstance(value, float) and not math.isfinite(value):
            raise InvalidRequest.at(path, "numbers must be finite")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InvalidRequest.at(path, "numbers must fit in 64 bits")


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
    except UnicodeEncodeError as error:
        raise InvalidRequest.at(at.encode("ascii", "replace").decode(), "is not valid Unicode text") from error
    if "\0" in text:
        raise InvalidRequest.at(at.replace("\0", "?"), "must not contain a NUL character")
