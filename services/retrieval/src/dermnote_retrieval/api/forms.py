"""Reads request bodies within size limits: forms with files, whole bodies, and streams that a thread can read."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import IO, Annotated, TypeVar

from anyio import from_thread, move_on_after
from fastapi import Depends, Request
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.types import Message

from dermnote_contracts.problems import InsufficientStorage, InvalidRequest, TooLarge, UnsupportedMedia, field_errors
from dermnote_retrieval.runtime.shutdown import Shutdown
from dermnote_retrieval.service import Service
from dermnote_retrieval.store.database import translate_full_disk

Model = TypeVar("Model", bound=BaseModel)
FORM_TYPES = ("multipart/form-data", "application/x-www-form-urlencoded")


@dataclass(frozen=True)
class Form:
    """A form's non-empty text fields, and its open files named `image` (large ones on disk)."""

    fields: Mapping[str, str]
    images: Sequence[IO[bytes]]

    @property
    def image(self) -> IO[bytes] | None:
        """The first image; None if there is none."""
        return self.images[0] if self.images else None


async def get_service(request: Request) -> Service:  # async: FastAPI runs sync dependencies in a thread
    """The service of the request's app."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]


def media_type(request: Request) -> str:
    """The content type in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def read_form(
    request: Request, *, known: tuple[str, ...], service: Service, max_images: int = 1
) -> AsyncIterator[Form]:
    """A request's form; its files stay open until the block ends. Raises UnsupportedMedia, TooLarge, InvalidRequest."""
    if media_type(request) not in FORM_TYPES:
        raise UnsupportedMedia(f"send a form: {' or '.join(FORM_TYPES)}")
    settings = service.settings
    bounded = _bounded(request, max_bytes=max_images * settings.max_upload_bytes + settings.max_body_bytes)
    try:
        with translate_full_disk("the temporary folder has no space for the upload", at=Path(gettempdir())):
            form = await bounded.form(max_files=max_images, max_fields=16, max_part_size=settings.max_body_bytes)
    except (FormParserError, HTTPException) as error:
        reason = error.detail if isinstance(error, HTTPException) else "it is malformed"
        raise InvalidRequest(f"the form cannot be read: {reason}") from error
    except InsufficientStorage:
        async for _ in bounded.stream():  # some clients read the response only after they have sent everything
            pass
        raise
    try:
        yield _checked(form, known=known, max_images=max_images, max_image_bytes=settings.max_upload_bytes)
    finally:
        await form.close()


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """The whole body; raises TooLarge or InvalidRequest."""
    return await _bounded(request, max_bytes=max_bytes).body()


def validated(validate: Callable[[], Model]) -> Model:
    """The result of a pydantic validation; raises InvalidRequest."""
    try:
        return validate()
    except ValidationError as error:
        raise InvalidRequest("see errors", errors=field_errors(error.errors())) from error


class BodyStream:
    """A body's chunks for a thread of the WorkerPool, received only as fast as the thread reads them.

    With `shutdown`, reading raises Stopping as soon as the process shuts down, even while it waits for the client.
    """

    def __init__(self, request: Request, *, shutdown: Shutdown | None = None) -> None:
        self._receive = request.receive
        self._shutdown = shutdown
        self._more = True

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := from_thread.run(self.next_chunk, self._shutdown)) is not None:
            yield chunk

    async def next_chunk(self, shutdown: Shutdown | None = None) -> bytes | None:
        """The next bytes, None at the end; raises InvalidRequest if the client disconnects."""
        if not self._more:
            return None
        message = await (self._receive() if shutdown is None else shutdown.receive(self._receive))
        if message["type"] == "http.disconnect":
            self._more = False
            raise InvalidRequest("the stream ended early")
        self._more = message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    async def discard(self, *, max_bytes: int, for_s: float | None = None) -> None:
        """Read and drop the rest, up to the limits: some clients read the response only after sending everything."""
        seen = 0
        with move_on_after(for_s):
            while seen < max_bytes and (chunk := await self.next_chunk()) is not None:
                seen += len(chunk)


def _bounded(request: Request, *, max_bytes: int) -> Request:
    """The same request with a size limit, checked against its Content-Length and again while the body is read."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal():
        raise InvalidRequest("Content-Length must be a number")
    stream, seen = BodyStream(request), 0

    async def receive() -> Message:
        nonlocal seen
        chunk = await stream.next_chunk()
        seen += len(chunk or b"")
        if max(seen, int(declared)) > max_bytes:
            await stream.discard(max_bytes=2 * max_bytes)
            raise TooLarge(f"the body exceeds the limit of {max_bytes} bytes")
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    return Request(request.scope, receive)


def _checked(form: FormData, *, known: tuple[str, ...], max_images: int, max_image_bytes: int) -> Form:
    fields: dict[str, str] = {}
    images: list[IO[bytes]] = []
    for name, value in form.multi_items():
        if name != "image" and name not in known:
            raise InvalidRequest.at("form", f"unknown field; allowed: image, {', '.join(known)}")
        if name in fields or (name == "image" and len(images) == max_images):
            raise InvalidRequest.at(name, "given twice")
        if isinstance(value, UploadFile) != (name == "image"):
            raise InvalidRequest.at(name, "must be a file" if name == "image" else "must be text, not a file")
        if isinstance(value, UploadFile):
            images.append(_image_file(value, max_bytes=max_image_bytes))
        elif value.strip():
            fields[name] = _unicode(value, at=name)
    return Form(fields=fields, images=images)


def _image_file(upload: UploadFile, *, max_bytes: int) -> IO[bytes]:
    if upload.size is not None and upload.size > max_bytes:
        raise TooLarge(f"the image has {upload.size} bytes, more than the limit of {max_bytes}")
    return upload.file


def _unicode(text: str, *, at: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest.at(at, "is not valid Unicode text") from error
    return text
