"""Pictures as data URIs, so that a report is one file."""

import base64
import io
from pathlib import Path

from PIL import Image

from dermnote_train.data.images import FORMATS

THUMBNAIL_PX = 176


def thumbnail(path: Path, *, side: int = THUMBNAIL_PX) -> str:
    """The middle square of a picture, `side` pixels, without its metadata, as a JPEG data URI."""
    with Image.open(path, formats=FORMATS) as image:
        picture = image.convert("RGB")
    width, height = picture.size
    edge = min(width, height)
    left, top = (width - edge) // 2, (height - edge) // 2
    square = picture.resize((side, side), Image.Resampling.LANCZOS, box=(left, top, left + edge, top + edge))
    stream = io.BytesIO()
    square.save(stream, format="JPEG", quality=82)
    return data_uri(stream.getvalue(), "image/jpeg")


def data_uri(content: bytes, kind: str) -> str:
    """Bytes of a media type as a data URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
