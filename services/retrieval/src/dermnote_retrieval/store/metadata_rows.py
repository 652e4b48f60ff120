"""Metadata as flat facts, so that a filter is a lookup: ("symptoms.itch", "yes"), a list as one fact a member.

Booleans are kept apart from 1 and 0; null is as good as not given.
"""

from collections.abc import Iterator, Mapping
from typing import Any

SqlValue = str | int | float | bytes


def sql_value(value: str | float | bool) -> SqlValue:
    """How one metadata value is stored and compared."""
    return (b"true" if value else b"false") if isinstance(value, bool) else value


def facts(metadata: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, SqlValue]]:
    """Every (dotted path, value) in the metadata."""
    for key, value in metadata.items():
        yield from _facts_at(f"{prefix}{key}", value)


def _facts_at(path: str, value: Any) -> Iterator[tuple[str, SqlValue]]:
    if isinstance(value, Mapping):
        yield from facts(value, f"{path}.")
    elif isinstance(value, list):
        for member in value:
            yield from _facts_at(path, member)
    elif value is not None:
        yield path, sql_value(value)
