"""Filters and exclusions to selections of items. The result of a filter is cached until the next write."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from dermnote_contracts.retrieval import Exclude
from dermnote_retrieval.index.types import EVERYTHING, Selection
from dermnote_retrieval.query.filters import compile_filter
from dermnote_retrieval.store.items import ItemStore

# Limits on cached filters and on the item numbers in all of them (8 bytes each).
MAX_FILTERS, MAX_NUMBERS = 64, 4_000_000


class FilterCache:
    """Selections over one store. `version()` changes with every write of items."""

    def __init__(self, items: ItemStore, version: Callable[[], object]) -> None:
        self._items = items
        self._version = version
        self._lock = threading.Lock()
        self._cached_version: object = None
        self._cached: OrderedDict[str, Selection] = OrderedDict()

    def selection(self, spec: Mapping[str, Any] | None, exclude: Exclude) -> Selection:
        """The items that pass a filter and are not excluded; raises FilterRefused."""
        matching = self._matching(spec) if spec else EVERYTHING
        if not exclude.ids and not exclude.groups:
            return matching
        return Selection(matching.allowed, self._items.named(ids=exclude.ids, groups=exclude.groups))

    def _matching(self, spec: Mapping[str, Any]) -> Selection:
        condition = compile_filter(spec)  # first: an invalid filter is never cached
        key, version = json.dumps(spec, sort_keys=True), self._version()
        with self._lock:
            if self._cached_version != version:
                self._cached.clear()
                self._cached_version = version
            if key in self._cached:
                self._cached.move_to_end(key)
                return self._cached[key]
        # The version was read before the items, so the result is of that version or a later one, and dropped with it.
        selection = Selection(self._items.matching(condition))
        with self._lock:
            if self._cached_version == version:
                self._add(key, selection)
        return selection

    def _add(self, key: str, selection: Selection) -> None:
        self._cached[key] = selection
        while len(self._cached) > MAX_FILTERS or sum(map(_size, self._cached.values())) > MAX_NUMBERS:
            self._cached.popitem(last=False)


def _size(selection: Selection) -> int:
    return 0 if selection.allowed is None else len(selection.allowed)
