"""Items as a WebDataset tar: per item `key.jpg` (or png, webp), `key.txt` and `key.json`; key is the item's id."""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NewItem:
    """An item to store. `item_id` has no dot, because a WebDataset key ends at the first dot.

    `suffix`: the image's format, jpg, png or webp. `image_vector` and `note_vector` are embeddings by the model
    `model`; if they are None, the service computes them.
    """

    item_id: str
    image: bytes | None
    suffix: str
    note: str | None
    metadata: dict[str, Any]
    group: str | None
    image_vector: list[float] | None = None
    note_vector: list[float] | None = None
    model: str | None = None

    def fields(self) -> dict[str, Any]:
        """The content of `key.json`: the fields other than image and note that are set."""
        names = ("metadata", "group", "image_vector", "note_vector", "model")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def pack_shard(items: Sequence[NewItem]) -> bytes:
    """An uncompressed tar of the items, in order."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for item in items:
            for suffix, content in _members(item):
                member = tarfile.TarInfo(f"{item.item_id}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def _members(item: NewItem) -> list[tuple[str, bytes]]:
    members = [] if item.image is None else [(item.suffix, item.image)]
    if item.note is not None:
        members.append(("txt", item.note.encode()))
    return [*members, ("json", json.dumps(item.fields()).encode())]
