"""Streams of many records: a WebDataset tar or NDJSON, read one record at a time, nothing extracted to a path.

A record that cannot be used becomes a Refused in its place; a stream that breaks ends with one. Memory is bounded by
one record: a member over its cap is passed over, and tar headers may not be longer than HEADER_BYTES.
"""

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

from pydantic import ValidationError

from dermnote_contracts.problems import DermnoteError, InvalidRequest, Stopping, TooLarge, field_errors
from dermnote_retrieval.ingest.images import Decoder
from dermnote_retrieval.ingest.records import OwnVectors, Record, make_record, parse_json
from dermnote_retrieval.ingest.writer import Refused
from dermnote_retrieval.runtime.shutdown import Draining

IMAGES = ("jpg", "jpeg", "png", "webp")
MAX_TEXT_BYTES = 1_000_000
HEADER_BYTES = 1_000_000
MAX_LABEL_CHARS = 200

# What the standard library's tar reader raises on bytes that are no tar, or on hostile headers.
_TAR_ERRORS = (tarfile.TarError, ValueError, TypeError, LookupError, ArithmeticError, EOFError)


class BulkFields(OwnVectors):
    """`key.json` of a tar's record. The id is the key where none is given."""

    id: str | None = None
    metadata: dict[str, Any] | None = None
    group: str | None = None


@dataclass
class _Parts:
    """A tar's record while its members come in."""

    key: str
    members: dict[str, bytes] = field(default_factory=dict)
    wrong: DermnoteError | None = None


class _BoundedReader:
    """A readable stream over chunks that gives at most `allowance` bytes until it is set again."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._held = b""
        self.allowance = HEADER_BYTES

    def read(self, size: int) -> bytes:
        while len(self._held) < size and (chunk := next(self._chunks, None)) is not None:
            self._held += chunk
        data, self._held = self._held[:size], self._held[size:]
        self.allowance -= len(data)
        if self.allowance < 0:
            raise TooLarge("a tar header is too long")
        return data

    def drain(self) -> None:
        """Read what is left after the tar's end: its padding, or TooLarge."""
        self.allowance = HEADER_BYTES
        while self.read(tarfile.RECORDSIZE):
            pass


def read_tar(chunks: Iterable[bytes], *, decoder: Decoder) -> Iterator[Record | Refused]:
    """Records of an uncompressed tar, in order: members key.jpg (png, webp), key.txt, key.json that follow each other.

    Raises InvalidRequest when the stream is no tar at all.
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
    except DermnoteError as wrong:
        if not started:
            raise
        # What came whole before the break is kept; the record that was being read is not known to be whole.
        yield Refused(_label(parts.key if parts else ""), wrong)
        return
    if parts is not None:
        yield _record(parts, decoder=decoder)


def read_ndjson(chunks: Iterable[bytes], *, decoder: Decoder) -> Iterator[Record | Refused]:
    """Records without images, one JSON object of RecordFields a line."""
    try:
        for line in _lines(chunks):
            yield _from_line(line, decoder=decoder)
    except DermnoteError as wrong:
        yield Refused("", wrong)


def until_stopping(records: Iterable[Record | Refused], draining: Draining) -> Iterator[Record | Refused]:
    """The records, until the process is to stop: the next one is refused, and it is the last. All before are kept."""
    for record in records:
        if draining.on:
            yield Refused(record.id, Stopping("this record and what follows was not stored; send it again"))
            return
        yield record


def _members(reader: _BoundedReader, *, max_image_bytes: int) -> Iterator[tuple[str, str, bytes | DermnoteError]]:
    """(key, kind, content or why it cannot be used) of each member that is a file."""
    seen = 0
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", reader), mode="r|") as tar:
            while (member := tar.next()) is not None:
                seen += 1
                reader.allowance = member.size + HEADER_BYTES
                key, kind = _name(member.name)
                if not member.isdir():
                    most = max_image_bytes if kind in IMAGES else MAX_TEXT_BYTES
                    yield key, kind, _content(tar, member, most=most)
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
            reader.drain()
    except _TAR_ERRORS as wrong:
        reason = "the tar is damaged or ends early" if seen else "this is not an uncompressed tar"
        raise InvalidRequest(reason) from wrong


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, *, most: int) -> bytes | DermnoteError:
    if not member.isreg():
        return InvalidRequest("only plain files are taken, no links or devices")
    if member.size > most:
        return TooLarge(f"a member has {member.size} bytes; at most {most} are taken")
    file = tar.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise InvalidRequest("the tar ends early")
    return data


def _name(path: str) -> tuple[str, str]:
    """WebDataset's rule: the key goes up to the first dot of the last part of the path, the rest is the kind."""
    folder, slash, name = path.removeprefix("./").rpartition("/")
    key, _, kind = name.partition(".")
    return f"{folder}{slash}{key}", kind.lower()


def _add(parts: _Parts, kind: str, data: bytes | DermnoteError) -> None:
    kind = "image" if kind in IMAGES else kind
    if isinstance(data, DermnoteError):
        parts.wrong = parts.wrong or data
    elif kind not in ("image", "txt", "json"):
        parts.wrong = parts.wrong or InvalidRequest(f"a member is neither {', '.join(IMAGES)} nor txt nor json")
    elif kind in parts.members:
        parts.wrong = parts.wrong or InvalidRequest(f"more than one {kind} member has this key")
    else:
        parts.members[kind] = data


def _record(parts: _Parts, *, decoder: Decoder) -> Record | Refused:
    item_id = parts.key
    try:
        if parts.wrong:
            raise parts.wrong
        fields = _bulk_fields(parts.members.get("json"))
        item_id = fields.id or parts.key
        note = _text(parts.members["txt"]) if "txt" in parts.members else None
        given = fields.model_dump() | {"id": item_id, "note": note}
        return make_record(given, image=parts.members.get("image"), decoder=decoder)
    except DermnoteError as wrong:
        return Refused(_label(item_id), wrong)


def _bulk_fields(data: bytes | None) -> BulkFields:
    try:
        return BulkFields.model_validate(parse_json(data, at="json") if data is not None else {})
    except ValidationError as wrong:
        raise InvalidRequest("see errors", errors=field_errors(wrong.errors())) from wrong


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        raise InvalidRequest("the note is not UTF-8 text") from wrong


def _from_line(line: bytes | None, *, decoder: Decoder) -> Record | Refused:
    item_id = ""
    try:
        if line is None:
            raise TooLarge(f"a line has more than {MAX_TEXT_BYTES} bytes")
        fields = parse_json(line, at="line")
        if not isinstance(fields, dict):
            raise InvalidRequest("a line must be a JSON object")
        item_id = fields["id"] if isinstance(fields.get("id"), str) else ""
        return make_record(fields, image=None, decoder=decoder)
    except DermnoteError as wrong:
        return Refused(_label(item_id), wrong)


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes | None]:
    """Lines that are not blank; None for one that is too long, whose bytes are passed over."""
    held, too_long = bytearray(), False
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            held += piece
            if too_long or len(held) > MAX_TEXT_BYTES:
                yield None
            elif held.strip():
                yield bytes(held)
            held, too_long = bytearray(), False
        held += rest
        if len(held) > MAX_TEXT_BYTES:
            held, too_long = bytearray(), True
    if too_long or held.strip():
        yield None if too_long else bytes(held)


def _label(text: str) -> str:
    """A key as the answer may show it, whatever bytes it was made of."""
    return text[:MAX_LABEL_CHARS].encode("utf-8", "replace").decode("utf-8")
