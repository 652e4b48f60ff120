"""The filter language over metadata, compiled to a condition for the store. Pure: values in, SQL with values out.

    {"diagnosis": "melanoma", "age": {"gte": 50}}          all must hold
    {"or": [{"sex": "male"}, {"not": {"site": {"in": ["back", "face"]}}}]}
    {"symptoms": {"itch": "yes"}}  =  {"symptoms.itch": "yes"}

A list in the metadata equals each of its members. null means: not given. Values of known fields are normalised by the
same function as stored metadata; other keys are compared as they are.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from dermnote_contracts.metadata import LesionMetadata, normalise_known
from dermnote_contracts.problems import FieldError, FilterRefused, field_errors
from dermnote_retrieval.store.items import Condition
from dermnote_retrieval.store.metadata_rows import SqlValue, sql_value

MAX_COMPARISONS = 256
MAX_IN_VALUES = 1000
MAX_DEPTH = 16
GROUPS = ("symptoms", "findings")
OPERATORS = ("in", "gte", "lte")
_ALWAYS = Condition("1")


def compile_filter(spec: Mapping[str, Any]) -> Condition:
    """The condition that a filter stands for; raises FilterRefused with the place of what is wrong."""
    if _entries(spec) > MAX_COMPARISONS:
        raise _refused("filter", f"holds more than {MAX_COMPARISONS} comparisons")
    return _all_of(spec, at="filter", depth=0)


def _entries(spec: Any) -> int:
    """How many entries and filters there are; a list of plain values counts as one."""
    if isinstance(spec, Mapping):
        return sum(1 + _entries(value) for value in spec.values())
    if isinstance(spec, list):
        return sum(1 + _entries(part) for part in spec if isinstance(part, list | Mapping))
    return 0


def _all_of(spec: Any, *, at: str, depth: int) -> Condition:
    if not isinstance(spec, Mapping):
        raise _refused(at, "must be an object")
    if depth > MAX_DEPTH:
        raise _refused(at, f"nested deeper than {MAX_DEPTH}")
    return _join("and", [_entry(key, value, at=f"{at}.{key}", depth=depth) for key, value in spec.items()])


def _entry(key: str, value: Any, *, at: str, depth: int) -> Condition:
    if key in ("and", "or"):
        if not isinstance(value, list) or not value:
            raise _refused(at, "must be a list of filters, not empty")
        parts = [_all_of(part, at=f"{at}.{place}", depth=depth + 1) for place, part in enumerate(value)]
        return _join(key, parts)
    if key == "not":
        inner = _all_of(value, at=at, depth=depth + 1)
        return Condition(f"not ({inner.sql})", inner.values)
    if key in GROUPS:
        if not isinstance(value, Mapping) or not value:
            raise _refused(at, 'must be an object of fields, such as {"symptoms": {"itch": "yes"}}')
        return _join("and", [_field(f"{key}.{name}", wanted, at=f"{at}.{name}") for name, wanted in value.items()])
    return _field(key, value, at=at)


def _field(path: str, wanted: Any, *, at: str) -> Condition:
    if not isinstance(wanted, Mapping):
        return _equals(path, wanted, at=at)
    if not wanted:
        raise _refused(at, f"needs an operator: {', '.join(OPERATORS)}")
    return _join("and", [_compare(path, name, operand, at=f"{at}.{name}") for name, operand in wanted.items()])


def _compare(path: str, operator: str, operand: Any, *, at: str) -> Condition:
    compare: dict[str, Callable[[], Condition]] = {
        "in": lambda: _one_of(path, operand, at=at),
        "gte": lambda: _ordered(path, ">=", operand, at=at),
        "lte": lambda: _ordered(path, "<=", operand, at=at),
    }
    if operator not in compare:
        raise _refused(at, f"unknown operator; known are {', '.join(OPERATORS)}", nearest=list(OPERATORS))
    return compare[operator]()


def _one_of(path: str, operand: Any, *, at: str) -> Condition:
    if not isinstance(operand, list) or not operand:
        raise _refused(at, "must be a list of values, not empty")
    if len(operand) > MAX_IN_VALUES:
        raise _refused(at, f"at most {MAX_IN_VALUES} values are taken")
    return _any_of(path, [_normalised(path, value, at=f"{at}.{place}") for place, value in enumerate(operand)])


def _equals(path: str, wanted: Any, *, at: str) -> Condition:
    return _any_of(path, [_normalised(path, wanted, at=at)])


def _any_of(path: str, wanted: list[SqlValue | None]) -> Condition:
    """The field holds one of the values; None stands for "not given"."""
    values = tuple(value for value in wanted if value is not None)
    parts = []
    if values:
        places = ", ".join("?" * len(values))
        sql = f"number in (select item from facts where path = ? and value in ({places}))"  # noqa: S608 - only marks
        parts.append(Condition(sql, (path, *values)))
    if None in wanted:
        parts.append(Condition("number not in (select item from facts where path = ?)", (path,)))
    return _join("or", parts)


def _ordered(path: str, sign: str, operand: Any, *, at: str) -> Condition:
    if isinstance(operand, bool) or not isinstance(operand, int | float | str):
        raise _refused(at, "must be a number or text")
    value = _normalised(path, operand, at=at)
    if value is None or isinstance(value, bytes) or (_known(path) and isinstance(value, str)):
        raise _refused(at, "this field has no order")
    # SQLite puts every text after every number, so the kinds are kept apart.
    kinds = "('text')" if isinstance(value, str) else "('integer', 'real')"
    sql = f"number in (select item from facts where path = ? and value {sign} ? and typeof(value) in {kinds})"  # noqa: S608
    return Condition(sql, (path, value))


def _known(path: str) -> bool:
    return path.partition(".")[0] in LesionMetadata.model_fields


def _normalised(path: str, value: Any, *, at: str) -> SqlValue | None:
    """The value as facts are stored, or None for "not given". For a list field it names one member."""
    if isinstance(value, list | Mapping):
        raise _refused(at, 'must be one value; for several use {"in": [...]}')
    top, _, field = path.partition(".")
    nested = _known(path) and bool(field)
    try:
        found: Any = normalise_known({top: {field: value}} if nested else {path: value})
    except ValidationError as wrong:
        raise FilterRefused("see errors", errors=_at(at, wrong)) from wrong
    held = found.get(top, {}).get(field) if nested else found.get(path)
    return _storable(held[0] if isinstance(held, list) else held, at=at)


def _storable(value: Any, *, at: str) -> SqlValue | None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise _refused(at, "numbers must fit 64 bits")
    return None if value is None else sql_value(value)


def _at(at: str, wrong: ValidationError) -> list[FieldError]:
    return [error.model_copy(update={"field": at}) for error in field_errors(wrong.errors())]


def _join(word: str, parts: list[Condition]) -> Condition:
    if not parts:
        return _ALWAYS
    values = tuple(value for part in parts for value in part.values)
    return Condition(f" {word} ".join(f"({part.sql})" for part in parts), values)


def _refused(at: str, message: str, *, nearest: list[str] | None = None) -> FilterRefused:
    return FilterRefused(message, errors=[FieldError(field=at, message=message, nearest=nearest)])
