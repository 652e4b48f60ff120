"""The filter language over metadata, compiled to SQL conditions, and a cache of the items that pass a filter.

    {"diagnosis": "melanoma", "age": {"gte": 50}}          all must hold
    {"or": [{"sex": "male"}, {"not": {"site": {"in": ["back", "face"]}}}]}
    {"symptoms": {"itch": "yes"}}  =  {"symptoms.itch": "yes"}

A list in the metadata matches if one of its members does. null means missing. Values of known fields are normalised by
the same function as stored metadata; other keys are compared unchanged.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from dermnote_contracts.metadata import LesionMetadata, normalise_known
from dermnote_contracts.problems import FieldError, FilterRefused, field_errors
from dermnote_contracts.retrieval import Exclude
from dermnote_retrieval.index.exact import EVERYTHING, Selection
from dermnote_retrieval.store.items import Condition, ItemStore, SqlValue, sql_value

MAX_COMPARISONS = 256
MAX_IN_VALUES = 1000
MAX_DEPTH = 16
GROUPS = ("symptoms", "findings")
OPERATORS = ("in", "gte", "lte")
_ALWAYS = Condition("1")
# Limits on the number of cached filters, and on the item numbers (8 bytes each) in all of them together.
MAX_FILTERS, MAX_NUMBERS = 64, 4_000_000


def compile_filter(spec: Mapping[str, Any]) -> Condition:
    """Compile a filter to a condition; raises FilterRefused with the path of the invalid part."""
    if _entries(spec) > MAX_COMPARISONS:
        raise _invalid("filter", f"has more than {MAX_COMPARISONS} comparisons")
    return _all_of(spec, at="filter", depth=0)


def _entries(spec: Any) -> int:
    """The number of entries and nested filters; a list of plain values counts as one."""
    if isinstance(spec, Mapping):
        return sum(1 + _entries(value) for value in spec.values())
    if isinstance(spec, list):
        return sum(1 + _entries(part) for part in spec if isinstance(part, list | Mapping))
    return 0


def _all_of(spec: Any, *, at: str, depth: int) -> Condition:
    if not isinstance(spec, Mapping):
        raise _invalid(at, "must be an object")
    if depth > MAX_DEPTH:
        raise _invalid(at, f"nested deeper than {MAX_DEPTH}")
    return _join("and", [_entry(key, value, at=f"{at}.{key}", depth=depth) for key, value in spec.items()])


def _entry(key: str, value: Any, *, at: str, depth: int) -> Condition:
    if key in ("and", "or"):
        if not isinstance(value, list) or not value:
            raise _invalid(at, "must be a non-empty list of filters")
        parts = [_all_of(part, at=f"{at}.{position}", depth=depth + 1) for position, part in enumerate(value)]
        return _join(key, parts)
    if key == "not":
        inner = _all_of(value, at=at, depth=depth + 1)
        return Condition(f"not ({inner.sql})", inner.values)
    if key in GROUPS:
        if not isinstance(value, Mapping) or not value:
            raise _invalid(at, 'must be an object of fields, such as {"symptoms": {"itch": "yes"}}')
        return _join("and", [_field(f"{key}.{name}", inner, at=f"{at}.{name}") for name, inner in value.items()])
    return _field(key, value, at=at)


def _field(path: str, value: Any, *, at: str) -> Condition:
    if not isinstance(value, Mapping):
        return _any_of(path, [_normalised(path, value, at=at)])
    if not value:
        raise _invalid(at, f"needs an operator: {', '.join(OPERATORS)}")
    return _join("and", [_compare(path, name, operand, at=f"{at}.{name}") for name, operand in value.items()])


def _compare(path: str, operator: str, operand: Any, *, at: str) -> Condition:
    compare: dict[str, Callable[[], Condition]] = {
        "in": lambda: _one_of(path, operand, at=at),
        "gte": lambda: _ordered(path, ">=", operand, at=at),
        "lte": lambda: _ordered(path, "<=", operand, at=at),
    }
    if operator not in compare:
        raise _invalid(at, f"unknown operator; supported: {', '.join(OPERATORS)}", nearest=list(OPERATORS))
    return compare[operator]()


def _one_of(path: str, operand: Any, *, at: str) -> Condition:
    if not isinstance(operand, list) or not operand:
        raise _invalid(at, "must be a non-empty list of values")
    if len(operand) > MAX_IN_VALUES:
        raise _invalid(at, f"has more than {MAX_IN_VALUES} values")
    return _any_of(path, [_normalised(path, value, at=f"{at}.{position}") for position, value in enumerate(operand)])


def _any_of(path: str, options: list[SqlValue | None]) -> Condition:
    """The field has one of the values; None stands for "missing"."""
    values = tuple(value for value in options if value is not None)
    parts = []
    if values:
        marks = ", ".join("?" * len(values))
        sql = f"number in (select item from facts where path = ? and value in ({marks}))"  # noqa: S608 - only placeholders
        parts.append(Condition(sql, (path, *values)))
    if None in options:
        parts.append(Condition("number not in (select item from facts where path = ?)", (path,)))
    return _join("or", parts)


def _ordered(path: str, sign: str, operand: Any, *, at: str) -> Condition:
    if isinstance(operand, bool) or not isinstance(operand, int | float | str):
        raise _invalid(at, "must be a number or text")
    value = _normalised(path, operand, at=at)
    if value is None or isinstance(value, bytes) or (_known(path) and isinstance(value, str)):
        raise _invalid(at, "this field cannot be compared by order")
    # SQLite orders every text after every number, so the types are compared separately.
    kinds = "('text')" if isinstance(value, str) else "('integer', 'real')"
    sql = f"number in (select item from facts where path = ? and value {sign} ? and typeof(value) in {kinds})"  # noqa: S608
    return Condition(sql, (path, value))


def _known(path: str) -> bool:
    return path.partition(".")[0] in LesionMetadata.model_fields


def _normalised(path: str, value: Any, *, at: str) -> SqlValue | None:
    """The value as it is stored, or None for "missing". For a list field, the value is one member of the list."""
    if isinstance(value, list | Mapping):
        raise _invalid(at, 'must be a single value; for several use {"in": [...]}')
    top, _, field = path.partition(".")
    nested = _known(path) and bool(field)
    try:
        normalised: Any = normalise_known({top: {field: value}} if nested else {path: value})
    except ValidationError as error:
        raise FilterRefused("see errors", errors=_at(at, error)) from error
    result = normalised.get(top, {}).get(field) if nested else normalised.get(path)
    return _storable(result[0] if isinstance(result, list) else result, at=at)


def _storable(value: Any, *, at: str) -> SqlValue | None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise _invalid(at, "numbers must fit in 64 bits")
    return None if value is None else sql_value(value)


def _at(at: str, invalid: ValidationError) -> list[FieldError]:
    return [error.model_copy(update={"field": at}) for error in field_errors(invalid.errors())]


def _join(word: str, parts: list[Condition]) -> Condition:
    if not parts:
        return _ALWAYS
    values = tuple(value for part in parts for value in part.values)
    return Condition(f" {word} ".join(f"({part.sql})" for part in parts), values)


def _invalid(at: str, message: str, *, nearest: list[str] | None = None) -> FilterRefused:
    return FilterRefused(message, errors=[FieldError(field=at, message=message, nearest=nearest)])


class FilterCache:
    """Selections over one store, cached until the next write. `version()` changes with every write of items."""

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
        # The version was read before the items, so the result is never older than the version that it is cached for.
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
