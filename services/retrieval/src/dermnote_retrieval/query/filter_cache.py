"""Filter and exclusion to the items that may be found. What a filter lets through is kept until the next write."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from dermnote_contracts.retrieval import Exclude
from dermnote_retrieval.index.types import EVERYTHING, Numbers, Selection
from dermnote_retrieval.query.filters import compile_filter
from dermnote_retrieval.store.items import ItemStore

# Filters that are remembered, and items that they let through in all (8 bytes each).
MOST_KEPT, MOST_NUMBERS = 64, 4_000_000


class Selecting:
    """Selections over one store. `state()` changes with every write of items."""

    def __init__(self, items: ItemStore, state: Callable[[], object]) -> None:
        self._items = items
        self._state = state
        self._lock = threading.Lock()
        self._of_state: object = None
        self._kept: OrderedDict[str, Selection] = OrderedDict()

    def selection(self, spec: Mapping[str, Any] | None, exclude: Exclude) -> Selection:
        """The items that a filter lets through and `exclude` does not name; raises FilterRefused."""
        allowed = self._allowed(spec) if spec else EVERYTHING
        if not exclude.ids and not exclude.groups:
            return allowed
        return Selection(allowed.allowed, self._items.named(ids=exclude.ids, groups=exclude.groups))

    def _allowed(self, spec: Mapping[str, Any]) -> Selection:
        condition = compile_filter(spec)  # before anything else: a wrong filter is never remembered
        name, state = json.dumps(spec, sort_keys=True), self._state()
        with self._lock:
            if self._of_state != state:
                self._kept.clear()
                self._of_state = state
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        # The state was read before the items: what is found is of that state or a later one, and dropped with it.
        selection = Selection(self._items.matching(condition))
        with self._lock:
            if self._of_state == state:
                self._keep(name, selection)
        return selection

    def _keep(self, name: str, selection: Selection) -> None:
        self._kept[name] = selection
        while len(self._kept) > MOST_KEPT or sum(map(_size, self._kept.values())) > MOST_NUMBERS:
            self._kept.popitem(last=False)


def _size(selection: Selection) -> int:
    numbers: Numbers | None = selection.allowed
    return 0 if numbers is None else len(numbers)
