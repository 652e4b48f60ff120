"""Request bodies within limits: forms with one file, whole bodies, and streams that a thread can read."""

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
from starlette.types import Message, Receive

from dermnote_contracts.problems import InsufficientStorage, InvalidRequest, TooLarge, UnsupportedMedia, field_errors
from dermnote_retrieval.runtime.shutdown import Draining
from dermnote_retrieval.service import Service
from dermnote_retrieval.store.disk import full_disk_told

Model = TypeVar("Model", bound=BaseModel)
FORM_TYPES = ("multipart/form-data", "application/x-www-form-urlencoded")


@dataclass(frozen=True)
class Form:
    """A form's text fields, without the empty ones, and its files named `image`, open (large ones on disk)."""

    fields: Mapping[str, str]
    images: Sequence[IO[bytes]]

    @property
    def image(self) -> IO[bytes] | None:
        """The one image of a form that may have one."""
        return self.images[0] if self.images else None


async def the_service(request: Request) -> Service:  # async: FastAPI would give it a thread for each request
    """The service of the app that the request came to."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(the_service)]


def media_type(request: Request) -> str:
    """The content type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


@asynccontextmanager
async def read_form(
    request: Request, *, known: tuple[str, ...], service: Service, most_images: int = 1
) -> AsyncIterator[Form]:
    """The form of a request; its file is open inside. Raises UnsupportedMedia, TooLarge, InvalidRequest."""
    if media_type(request) not in FORM_TYPES:
        raise UnsupportedMedia(f"send a form: {' or '.join(FORM_TYPES)}")
    settings = service.settings
    bounded = _bounded(request, max_bytes=most_images * settings.max_upload_bytes + settings.max_body_bytes)
    try:
        with full_disk_told("an upload finds no room in the temporary folder", at=Path(gettempdir())):
            form = await bounded.form(max_files=most_images, max_fields=16, max_part_size=settings.max_body_bytes)
    except (FormParserError, HTTPException) as wrong:
        raise InvalidRequest(f"the form cannot be read: {_why(wrong)}") from wrong
    except InsufficientStorage:
        async for _ in bounded.stream():  # the client writes on, and then reads why
            pass
        raise
    try:
        yield _checked(form, known=known, most_images=most_images, max_image_bytes=settings.max_upload_bytes)
    finally:
        await form.close()


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """The whole body; raises TooLarge or InvalidRequest."""
    return await _bounded(request, max_bytes=max_bytes).body()


def validated(validate: Callable[[], Model]) -> Model:
    """What a pydantic model makes of the request; its refusal as InvalidRequest."""
    try:
        return validate()
    except ValidationError as wrong:
        raise InvalidRequest("see errors", errors=field_errors(wrong.errors())) from wrong


class BodyStream:
    """A body's chunks for a thread that Workers runs; the client is read only as fast as the thread asks.

    With `draining` the thread is told by Stopping when the process is to stop, even while it waits for the client.
    """

    def __init__(self, request: Request, *, draining: Draining | None = None) -> None:
        self._receive = request.receive
        self._draining = draining
        self._more = True

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := from_thread.run(self._next_while_serving)) is not None:
            yield chunk

    async def _next_while_serving(self) -> bytes | None:
        draining = self._draining
        return await self._next(self._receive if draining is None else lambda: draining.receive(self._receive))

    async def next_chunk(self) -> bytes | None:
        """The next bytes, None at the end; raises InvalidRequest when the client goes away."""
        return await self._next(self._receive)

    async def _next(self, receive: Receive) -> bytes | None:
        if not self._more:
            return None
        message = await receive()
        if message["type"] == "http.disconnect":
            self._more = False
            raise InvalidRequest("the stream ended early")
        self._more = message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk

    async def discard(self, *, max_bytes: int, for_s: float | None = None) -> None:
        """Read on and keep nothing, so that a client which writes first gets to see why it was refused."""
        seen = 0
        with move_on_after(for_s):
            while seen < max_bytes and (chunk := await self.next_chunk()) is not None:
                seen += len(chunk)


def _bounded(request: Request, *, max_bytes: int) -> Request:
    """The same request, refusing what is too large: declared so before it is read, else while it is read."""
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
            raise TooLarge(f"at most {max_bytes} bytes are taken")
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    return Request(request.scope, receive)


def _checked(form: FormData, *, known: tuple[str, ...], most_images: int, max_image_bytes: int) -> Form:
    fields: dict[str, str] = {}
    images: list[IO[bytes]] = []
    for name, value in form.multi_items():
        if name != "image" and name not in known:
            raise InvalidRequest.at("form", f"unknown field; known are image, {', '.join(known)}")
        if name in fields or (name == "image" and len(images) == most_images):
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
        raise TooLarge(f"the image has {upload.size} bytes; at most {max_bytes} are taken")
    return upload.file


def _unicode(text: str, *, at: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as wrong:
        raise InvalidRequest.at(at, "is not valid Unicode text") from wrong
    return text


def _why(wrong: Exception) -> str:
    return str(wrong.detail) if isinstance(wrong, HTTPException) else "it is malformed"
