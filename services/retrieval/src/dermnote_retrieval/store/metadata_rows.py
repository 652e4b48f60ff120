"""Metadata as rows of (path, value), so that a filter is an index lookup: ("symptoms.itch", "yes").

A list has one row per member. Booleans are stored apart from 1 and 0; null counts as missing.
"""

from collections.abc import Iterator, Mapping
from typing import Any

SqlValue = str | int | float | bytes


def sql_value(value: str | float | bool) -> SqlValue:
    """A metadata value as it is stored and compared."""
    return (b"true" if value else b"false") if isinstance(value, bool) else value


def metadata_rows(metadata: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, SqlValue]]:
    """Every (dotted path, value) in the metadata."""
    for key, value in metadata.items():
        yield from _rows_at(f"{prefix}{key}", value)


def _rows_at(path: str, value: Any) -> Iterator[tuple[str, SqlValue]]:
    if isinstance(value, Mapping):
        yield from metadata_rows(value, f"{path}.")
    elif isinstance(value, list):
        for member in value:
            yield from _rows_at(path, member)
    elif value is not None:
        yield path, sql_value(value)
