"""Images as data URIs, so that a report is one file."""

import base64
import io
from pathlib import Path

from PIL import Image

from dermnote_train.data.images import decode_file

THUMBNAIL_PX = 176


def thumbnail(path: Path, *, side: int = THUMBNAIL_PX) -> str:
    """The central square of an image, scaled to `side` x `side` pixels, as a JPEG data URI without metadata."""
    image = decode_file(path)
    width, height = image.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    square = image.resize((side, side), Image.Resampling.LANCZOS, box=(left, top, left + edge, top + edge))
    stream = io.BytesIO()
    square.save(stream, format="JPEG", quality=82)
    return data_uri(stream.getvalue(), "image/jpeg")


def data_uri(content: bytes, media_type: str) -> str:
    """Content as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
