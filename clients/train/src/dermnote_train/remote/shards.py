"""Items as WebDataset tar: `key.jpg`, `key.txt`, `key.json` a record. Bytes in, bytes out."""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NewItem:
    """An item to store. `item_id` has no dot, since WebDataset ends a key at the first. `suffix`: jpg, png or webp."""

    item_id: str
    image: bytes | None
    suffix: str
    note: str | None
    metadata: dict[str, Any]
    group: str | None


def tar_of(items: Sequence[NewItem]) -> bytes:
    """One uncompressed shard of the items, in their order."""
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
    described = {"metadata": item.metadata} | ({} if item.group is None else {"group": item.group})
    return [*members, ("json", json.dumps(described).encode())]
