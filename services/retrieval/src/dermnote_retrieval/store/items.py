"""Items in the store, with their images, metadata rows and vectors in the same transaction."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dermnote_contracts.retrieval import Distinct, Route
from dermnote_retrieval.store.database import Database

SqlValue = str | int | float | bytes
Vectors = npt.NDArray[np.float32]
ROUTES: tuple[Route, ...] = ("notes", "images")
# Items per result row of `by_number`: SQLite limits a value to a billion bytes, and one item may have several million.
ITEMS_PER_ROW = 32
_COLUMNS = "number, id, note, metadata, grp, version, has_image, note_digest, signs"
_LISTED = "(select group_concat(distinct route) from vectors where item = number), " + _COLUMNS  # noqa: S608


def sql_value(value: str | float | bool) -> SqlValue:
    """A metadata value as it is stored and compared."""
    return (b"true" if value else b"false") if isinstance(value, bool) else value


def metadata_rows(metadata: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, SqlValue]]:
    """Every (dotted path, value) in the metadata, so that a filter is an index lookup: ("symptoms.itch", "yes").

    A list has one row per member. Booleans are stored apart from 1 and 0; null counts as missing.
    """
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


@dataclass(frozen=True)
class NewItem:
    """An item to write. `vectors`: one unit vector [dim] per route; `digest`: a hash of everything received."""

    id: str
    note: str | None
    metadata: Mapping[str, Any]
    group: str | None
    image: bytes | None
    thumbnail: bytes | None
    vectors: Mapping[Route, Vectors]
    note_digest: str | None = None
    difference_hash: int | None = None
    digest: str | None = None


class StoredItem(NamedTuple):
    """An item in the store. `number` is its key in the index; `version` grows with every write.

    Equal notes have equal `note_digest`s; near-duplicate images have similar `difference_hash`es.
    """

    number: int
    id: str
    note: str | None
    metadata: dict[str, Any]
    group: str | None
    version: int
    has_image: bool
    note_digest: str | None
    difference_hash: int | None


@dataclass(frozen=True)
class ListedItem:
    """An item and the routes by which it can be found."""

    item: StoredItem
    routes: list[Route]


@dataclass(frozen=True)
class WriteResult:
    """The number of a written item, and whether the item is new."""

    number: int
    created: bool


@dataclass(frozen=True)
class Condition:
    """A condition on `items`: SQL with placeholders, and their values."""

    sql: str
    values: tuple[SqlValue, ...] = ()


class ItemStore:
    """Reads and writes items. Callers may hold `database.write_lock`, but need not."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def upsert(self, items: Sequence[NewItem], *, model_id: str) -> list[WriteResult]:
        """Write all items in order in one transaction; each fully replaces a stored item with the same id."""
        with self.database.transaction() as connection:
            return [_upsert(connection, item, model_id=model_id) for item in items]

    def delete(self, item_id: str) -> int | None:
        """Erase an item with everything that belongs to it; its number, or None if it does not exist."""
        with self.database.transaction() as connection:
            row = connection.execute("delete from items where id = ? returning number", (item_id,)).fetchone()
        return None if row is None else int(row[0])

    def get(self, item_id: str) -> StoredItem | None:
        row = self.database.row(f"select {_COLUMNS} from items where id = ?", item_id)  # noqa: S608
        return None if row is None else _item(row)

    def by_number(self, numbers: Sequence[int]) -> dict[int, StoredItem]:
        """The items that still exist, by number."""
        # Many items in one row: each step of a statement releases the GIL, which is slow to reacquire under load.
        sql = (
            f"select json_group_array(json_array({_COLUMNS})) from items "  # noqa: S608
            "where number in (select value from json_each(?))"
        )
        items: dict[int, StoredItem] = {}
        for start in range(0, len(numbers), ITEMS_PER_ROW):
            (rows,) = self.database.row(sql, json.dumps(list(numbers[start : start + ITEMS_PER_ROW])))
            items |= {row[0]: _item(row) for row in json.loads(rows)}
        return items

    def listed(self, item_id: str) -> ListedItem | None:
        row = self.database.row(f"select {_LISTED} from items where id = ?", item_id)  # noqa: S608
        return None if row is None else _listed(row)

    def page(self, *, after: str, limit: int) -> list[ListedItem]:
        """Up to `limit` items with ids greater than `after`, in id order."""
        sql = f"select {_LISTED} from items where id > ? order by id limit ?"  # noqa: S608
        return [_listed(row) for row in self.database.rows(sql, after, limit)]

    def thumbnail(self, item_id: str) -> bytes | None:
        row = self.database.row("select thumbnail from pictures join items on item = number where id = ?", item_id)
        return None if row is None else bytes(row[0])

    def image(self, number: int) -> bytes | None:
        row = self.database.row("select image from pictures where item = ?", number)
        return None if row is None else bytes(row[0])

    def matching(self, condition: Condition) -> npt.NDArray[np.int64]:
        """The numbers of all items that fulfil a condition, ascending."""
        sql = f"select number from items where {condition.sql} order by number"  # noqa: S608 - compiled, values bound
        with self.database.reading() as connection:
            return _numbers(connection.execute(sql, condition.values))

    def named(self, *, ids: Sequence[str], groups: Sequence[str]) -> npt.NDArray[np.int64]:
        """The numbers of all items with one of the ids or in one of the groups."""
        sql = (
            "select number from items where id in (select value from json_each(?)) "
            "union select number from items where grp in (select value from json_each(?))"
        )
        with self.database.reading() as connection:
            return _numbers(connection.execute(sql, (json.dumps(list(ids)), json.dumps(list(groups)))))

    def keys(self, numbers: Sequence[int], *, distinct: Distinct) -> dict[int, str]:
        """The note digest or the group of each item that has one, by number."""
        column = {"note": "note_digest", "group": "grp"}[distinct]
        sql = (
            f"select number, {column} from items "  # noqa: S608 - a name from above
            f"where number in (select value from json_each(?)) and {column} is not null"
        )
        return dict(self.database.rows(sql, json.dumps(list(numbers))))

    def with_digests(self, digests: Mapping[str, str]) -> dict[str, int]:
        """Those of the given items (id -> Record.digest) that are stored with the same digest: id -> number."""
        sql = (
            "select items.id, number from json_each(?) as given join items on items.id = given.key "
            "where items.digest = given.value"
        )
        return dict(self.database.rows(sql, json.dumps(digests)))

    def count(self) -> int:
        return int(self.database.row("select count(*) from items")[0])


def _numbers(rows: sqlite3.Cursor) -> npt.NDArray[np.int64]:
    return np.fromiter((row[0] for row in rows), dtype=np.int64)


def _item(row: Sequence[Any]) -> StoredItem:
    number, item_id, note, metadata, group, version, has_image, digest, signs = row
    return StoredItem(number, item_id, note, json.loads(metadata), group, version, bool(has_image), digest, signs)


def _listed(row: Sequence[Any]) -> ListedItem:
    routes = (row[0] or "").split(",")
    return ListedItem(_item(row[1:]), [route for route in ROUTES if route in routes])


def _upsert(connection: sqlite3.Connection, item: NewItem, *, model_id: str) -> WriteResult:
    existing = connection.execute("select number from items where id = ?", (item.id,)).fetchone()
    values = (
        item.note,
        json.dumps(item.metadata, ensure_ascii=False),
        item.group,
        item.image is not None,
        datetime.now(UTC).isoformat(timespec="milliseconds"),
        item.note_digest,
        item.difference_hash,
        item.digest,
    )
    if existing is None:
        sql = (
            "insert into items "
            "(note, metadata, grp, has_image, updated_at, note_digest, signs, digest, id, changed, version) "
            "values (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 1) returning number"
        )
        (number,) = connection.execute(sql, (*values, item.id)).fetchone()
    else:
        number = int(existing[0])
        for table in ("pictures", "facts", "vectors"):
            connection.execute(f"delete from {table} where item = ?", (number,))  # noqa: S608 - names from above
        connection.execute(
            "update items set note = ?, metadata = ?, grp = ?, has_image = ?, updated_at = ?, "
            "note_digest = ?, signs = ?, digest = ?, version = version + 1 where number = ?",
            (*values, number),
        )
    _write_parts(connection, number, item, model_id=model_id)
    return WriteResult(number=number, created=existing is None)


def _write_parts(connection: sqlite3.Connection, number: int, item: NewItem, *, model_id: str) -> None:
    if item.image is not None:
        connection.execute("insert into pictures values (?, ?, ?)", (number, item.image, item.thumbnail))
    # 1 and 1.0 are the same value to SQLite, and to a Python dict.
    rows = [(number, path, value) for path, value in dict.fromkeys(metadata_rows(item.metadata))]
    connection.executemany("insert into facts values (?, ?, ?)", rows)
    connection.executemany(
        "insert into vectors values (?, ?, ?, ?)",
        [(number, route, model_id, vector.tobytes()) for route, vector in item.vectors.items()],
    )
