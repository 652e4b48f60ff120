"""The indexes on disk, so that a start need not read every vector from the store: as they were, and what came since.

Only ever a shortcut: what does not match the store, or is damaged, is passed over and the index is made from the store.
"""

import json
import logging
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dermnote_contracts.manifest import ModelManifest
from dermnote_contracts.retrieval import Route
from dermnote_retrieval.index.adaptive import AdaptiveIndex, Limits, Saved
from dermnote_retrieval.store.items import ROUTES, ItemStore
from dermnote_retrieval.store.vectors import VectorStore

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
REPLAYED_AT_ONCE = 4096
READ_BYTES = 1 << 22
Indexes = Mapping[Route, AdaptiveIndex]


class Checkpoint:
    """One checkpoint in a folder; a new one replaces it when it is whole."""

    def __init__(self, folder: Path, *, items: ItemStore, vectors: VectorStore) -> None:
        self._folder = folder
        self._items = items
        self._vectors = vectors
        self._at: tuple[str, int] | None = None

    def behind(self, model_id: str) -> int:
        """Writes that came since the one that is on disk; all of them where none is, or one of another model."""
        model, change = self._at or (None, 0)
        return self._items.changes() - (change if model == model_id else 0)

    def save(self, indexes: Indexes, *, model_id: str) -> bool:
        """Write the indexes; whether that could be done: else the one before stays. The caller holds the write lock."""
        making = self._folder.with_name(f".{self._folder.name}")
        change = self._items.changes()
        try:
            shutil.rmtree(making, ignore_errors=True)
            files: dict[str, Any] = {}
            for route, index in indexes.items():
                (making / route).mkdir(parents=True)
                files[route] = asdict(index.save(making / route))
            told = {
                "store": self._items.store_id(),
                "model_id": model_id,
                "change": change,
                "routes": files,
                "crc32": {str(path.relative_to(making)): _crc32(path) for path in sorted(making.glob("*/*"))},
            }
            (making / MANIFEST).write_text(json.dumps(told))
            self.forget()
            making.rename(self._folder)
        except OSError as wrong:
            log.warning("no checkpoint of the index was written: %s", wrong)
            shutil.rmtree(making, ignore_errors=True)
            return False
        self._at = (model_id, change)
        return True

    def load(self, model: ModelManifest, *, limits: Limits) -> Indexes | None:
        """The indexes as they were written, brought up to date; None where they can't be had from here."""
        try:
            told = json.loads((self._folder / MANIFEST).read_text())
            if (told["store"], told["model_id"]) != (self._items.store_id(), model.model_id):
                return None
            if told["change"] > self._items.changes():
                log.warning("the checkpoint of the index is ahead of the store; it is passed over")
                return None
            self._check(told["crc32"])
            indexes = {route: self._read(route, told["routes"][route], limits) for route in ROUTES}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as wrong:
            log.warning("the checkpoint of the index can't be read, it is made from the store: %s", wrong)
            return None
        self._at = (model.model_id, told["change"])
        self._replay(indexes, model.model_id, since=told["change"])
        return indexes

    def forget(self) -> None:
        """Delete it: what is to be stored next goes back behind it."""
        self._at = None
        if self._folder.exists():
            going = self._folder.with_name(f".{self._folder.name}.old")
            shutil.rmtree(going, ignore_errors=True)
            self._folder.rename(going)
            shutil.rmtree(going, ignore_errors=True)

    def _check(self, sums: Mapping[str, int]) -> None:
        for name, expected in sums.items():
            if _crc32(self._folder / name) != expected:
                raise ValueError(f"{name} is not what was written")

    def _read(self, route: Route, told: Mapping[str, Any], limits: Limits) -> AdaptiveIndex:
        return AdaptiveIndex.load(self._folder / route, Saved(**told), limits)

    def _replay(self, indexes: Indexes, model_id: str, *, since: int) -> None:
        changed = self._items.changed_since(since)
        for start in range(0, len(changed), REPLAYED_AT_ONCE):
            part = changed[start : start + REPLAYED_AT_ONCE]
            for route, index in indexes.items():
                numbers, rows = self._vectors.of(part, model_id=model_id, route=route)
                index.replace(gone=part, numbers=numbers, vectors=rows.reshape(len(numbers), index.dim))


def _crc32(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while data := file.read(READ_BYTES):
            total = zlib.crc32(data, total)
    return total
