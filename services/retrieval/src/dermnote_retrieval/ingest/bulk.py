"""Streams of many records: a WebDataset tar or NDJSON, read one record at a time; nothing is extracted to disk.

An invalid record becomes a RejectedRecord in its place; after a broken stream, a RejectedRecord is the last record.
Memory is limited to one record: a member over its size limit is skipped, and tar headers are limited to HEADER_BYTES.
"""

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

from pydantic import ValidationError

from dermnote_contracts.problems import DermnoteError, InvalidRequest, Stopping, TooLarge, field_errors, parse_json
from dermnote_imaging.decoder import Decoder
from dermnote_retrieval.ingest.records import ClientVectors, Record, make_record
from dermnote_retrieval.ingest.writer import RejectedRecord
from dermnote_retrieval.runtime.shutdown import Shutdown

IMAGES = ("jpg", "jpeg", "png", "webp")
MAX_TEXT_BYTES = 1_000_000
HEADER_BYTES = 1_000_000
MAX_LABEL_CHARS = 200

# Exceptions that tarfile raises on other formats and on hostile headers.
_TAR_ERRORS = (tarfile.TarError, ValueError, TypeError, LookupError, ArithmeticError, EOFError)


class BulkFields(ClientVectors):
    """`key.json` of a tar's record. The id defaults to the key."""

    id: str | None = None
    metadata: dict[str, Any] | None = None
    group: str | None = None


@dataclass
class _Parts:
    """The members of a tar's record read so far."""

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    error: DermnoteError | None = None


class _BoundedReader:
    """A readable stream over chunks. More than `allowance` bytes raise TooLarge; callers reset it per member."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = b""
        self.allowance = HEADER_BYTES

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size and (chunk := next(self._chunks, None)) is not None:
            self._buffer += chunk
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        self.allowance -= len(data)
        if self.allowance < 0:
            raise TooLarge("a tar header is too long")
        return data

    def drain(self) -> None:
        """Read the padding after the tar's end; raises TooLarge if more than HEADER_BYTES follow."""
        self.allowance = HEADER_BYTES
        while self.read(tarfile.RECORDSIZE):
            pass


def read_tar(chunks: Iterable[bytes], *, decoder: Decoder) -> Iterator[Record | RejectedRecord]:
    """Records of an uncompressed tar, in order. A record is a run of members: key.jpg (png, webp), key.txt, key.json.

    Raises InvalidRequest if the stream is not a tar.
    """
    parts: _Parts | None = None
    started = False
    try:
        for key, kind, data in _members(_BoundedReader(chunks), max_image_bytes=decoder.limits.max_bytes):
            started = True
            if parts is not None and parts.key != key:
                yield _record(parts, decoder=decoder)
                parts = None
            parts = parts or _Parts(key)
            _add(parts, kind, data)
    except DermnoteError as error:
        if not started:
            raise
        # Complete records before the break are stored; the last one may be incomplete.
        yield RejectedRecord(_label(parts.key if parts else ""), error)
        return
    if parts is not None:
        yield _record(parts, decoder=decoder)


def read_ndjson(chunks: Iterable[bytes], *, decoder: Decoder) -> Iterator[Record | RejectedRecord]:
    """Records without images, one JSON object of RecordFields per line."""
    try:
        for line in _lines(chunks):
            yield _from_line(line, decoder=decoder)
    except DermnoteError as error:
        yield RejectedRecord("", error)


def until_shutdown(records: Iterable[Record | RejectedRecord], shutdown: Shutdown) -> Iterator[Record | RejectedRecord]:
    """The records until the shutdown begins; the next one is rejected and is the last."""
    for record in records:
        if shutdown.begun:
            yield RejectedRecord(record.id, Stopping("this record and the following ones were not stored; resend them"))
            return
        yield record


def _members(reader: _BoundedReader, *, max_image_bytes: int) -> Iterator[tuple[str, str, bytes | DermnoteError]]:
    """(key, kind, content or the reason why it is unusable) of each member that is a file."""
    count = 0
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r|") as tar:
            while (member := tar.next()) is not None:
                count += 1
                reader.allowance = member.size + HEADER_BYTES
                key, kind = _name(member.name)
                if not member.isdir():
                    max_bytes = max_image_bytes if kind in IMAGES else MAX_TEXT_BYTES
                    yield key, kind, _content(tar, member, max_bytes=max_bytes)
                tar.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps every header
            reader.drain()
    except _TAR_ERRORS as error:
        reason = "the tar is damaged or ends early" if count else "the body is not an uncompressed tar"
        raise InvalidRequest(reason) from error


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, *, max_bytes: int) -> bytes | DermnoteError:
    if not member.isreg():
        return InvalidRequest("only regular files are supported, not links or devices")
    if member.size > max_bytes:
        return TooLarge(f"a member of {member.size} bytes exceeds the limit of {max_bytes}")
    file = tar.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise InvalidRequest("the tar ends early")
    return data


def _name(path: str) -> tuple[str, str]:
    """WebDataset's rule: the key ends at the first dot of the last part of the path; the rest is the kind."""
    folder, slash, name = path.removeprefix("./").rpartition("/")
    key, _, kind = name.partition(".")
    return f"{folder}{slash}{key}", kind.lower()


def _add(parts: _Parts, kind: str, data: bytes | DermnoteError) -> None:
    kind = "image" if kind in IMAGES else kind
    if isinstance(data, DermnoteError):
        parts.error = parts.error or data
    elif kind not in ("image", "txt", "json"):
        parts.error = parts.error or InvalidRequest(f"a member's suffix is not one of {', '.join(IMAGES)}, txt, json")
    elif kind in parts.members:
        parts.error = parts.error or InvalidRequest(f"more than one {kind} member has this key")
    else:
        parts.members[kind] = data


def _record(parts: _Parts, *, decoder: Decoder) -> Record | RejectedRecord:
    item_id = parts.key
    try:
        if parts.error:
            raise parts.error
        fields = _bulk_fields(parts.members.get("json"))
        item_id = fields.id or parts.key
        note = _text(parts.members["txt"]) if "txt" in parts.members else None
        values = fields.model_dump() | {"id": item_id, "note": note}
        return make_record(values, image=parts.members.get("image"), decoder=decoder)
    except DermnoteError as error:
        return RejectedRecord(_label(item_id), error)


def _bulk_fields(data: bytes | None) -> BulkFields:
    try:
        return BulkFields.model_validate(parse_json(data, at="json") if data is not None else {})
    except ValidationError as error:
        raise InvalidRequest("see errors", errors=field_errors(error.errors())) from error


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest("the note is not UTF-8 text") from error


def _from_line(line: bytes | None, *, decoder: Decoder) -> Record | RejectedRecord:
    item_id = ""
    try:
        if line is None:
            raise TooLarge(f"a line has more than {MAX_TEXT_BYTES} bytes")
        fields = parse_json(line, at="line")
        if not isinstance(fields, dict):
            raise InvalidRequest("a line must be a JSON object")
        item_id = fields["id"] if isinstance(fields.get("id"), str) else ""
        return make_record(fields, image=None, decoder=decoder)
    except DermnoteError as error:
        return RejectedRecord(_label(item_id), error)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes | None]:
    """Lines that are not blank; None for one that is too long, whose bytes are skipped."""
    buffer, too_long = bytearray(), False
    for chunk in chunks:
        *ends, rest = chunk.split(b"\n")
        for piece in ends:
            buffer += piece
            if too_long or len(buffer) > MAX_TEXT_BYTES:
                yield None
            elif buffer.strip():
                yield bytes(buffer)
            buffer, too_long = bytearray(), False
        buffer += rest
        if len(buffer) > MAX_TEXT_BYTES:
            buffer, too_long = bytearray(), True
    if too_long or buffer.strip():
        yield None if too_long else bytes(buffer)


def _label(text: str) -> str:
    """A key for the response: shortened, and valid UTF-8 whatever its bytes are."""
    return text[:MAX_LABEL_CHARS].encode("utf-8", "replace").decode("utf-8")
