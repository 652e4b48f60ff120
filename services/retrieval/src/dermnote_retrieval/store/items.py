"""Items in and out of the store, with their pictures, facts and vectors in the same transaction."""

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
from dermnote_retrieval.store.metadata_rows import SqlValue, facts

Vectors = npt.NDArray[np.float32]
ROUTES: tuple[Route, ...] = ("notes", "images")
# SQLite makes no text of over a billion bytes, and an item may have some millions.
ITEMS_A_ROW = 32
_COLUMNS = "number, id, note, metadata, grp, version, has_image, note_digest, signs"
_LISTED = "(select group_concat(distinct route) from vectors where item = number), " + _COLUMNS  # noqa: S608


@dataclass(frozen=True)
class NewItem:
    """An item to write. `vectors`: one unit vector [dim] for each route that it has."""

    id: str
    note: str | None
    metadata: Mapping[str, Any]
    group: str | None
    image: bytes | None
    thumbnail: bytes | None
    vectors: Mapping[Route, Vectors]
    note_digest: str | None = None
    signs: int | None = None
    digest: str | None = None
    """Of all that came in for it."""


class StoredItem(NamedTuple):
    """An item as it is held. `number` is its key in the index; `version` changes with every write.

    `note_digest` and `signs` tell notes that are equal and pictures that are alike.
    """

    number: int
    id: str
    note: str | None
    metadata: dict[str, Any]
    group: str | None
    version: int
    has_image: bool
    note_digest: str | None
    signs: int | None


@dataclass(frozen=True)
class ListedItem:
    """An item, and the routes by which it can be found."""

    item: StoredItem
    routes: list[Route]


@dataclass(frozen=True)
class Written:
    """What became of a NewItem."""

    number: int
    created: bool


@dataclass(frozen=True)
class Condition:
    """A condition on `items`: SQL with placeholders and the values for them."""

    sql: str
    values: tuple[SqlValue, ...] = ()


class ItemStore:
    """Reads and writes items. Writing needs no lock of the caller; holding `database.write_lock` is allowed."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def upsert(self, items: Sequence[NewItem], *, model_id: str) -> list[Written]:
        """Write all items in order in one transaction; each replaces the whole of an older one with its id."""
        with self.database.transaction() as connection:
            change = _next_change(connection)
            return [_upsert(connection, item, model_id=model_id, change=change) for item in items]

    def delete(self, item_id: str) -> int | None:
        """Erase an item with all that belongs to it; its number, or None if there was none."""
        with self.database.transaction() as connection:
            row = connection.execute("delete from items where id = ? returning number", (item_id,)).fetchone()
            if row is not None:
                change = _next_change(connection)
                connection.execute("insert or replace into erased values (?, ?)", (row[0], change))
        return None if row is None else int(row[0])

    def get(self, item_id: str) -> StoredItem | None:
        with self.database.reading() as connection:
            row = connection.execute(f"select {_COLUMNS} from items where id = ?", (item_id,)).fetchone()  # noqa: S608
        return None if row is None else _item(row)

    def by_number(self, numbers: Sequence[int]) -> dict[int, StoredItem]:
        """The items that still exist, by number."""
        # Many in one row: each step of a statement lets go of the interpreter, and under load is long in coming back.
        sql = (
            f"select json_group_array(json_array({_COLUMNS})) from items "  # noqa: S608
            "where number in (select value from json_each(?))"
        )
        found: dict[int, StoredItem] = {}
        with self.database.reading() as connection:
            for start in range(0, len(numbers), ITEMS_A_ROW):
                part = json.dumps(list(numbers[start : start + ITEMS_A_ROW]))
                ((rows,),) = connection.execute(sql, (part,)).fetchall()
                found |= {row[0]: _item(row) for row in json.loads(rows)}
        return found

    def listed(self, item_id: str) -> ListedItem | None:
        sql = f"select {_LISTED} from items where id = ?"  # noqa: S608
        with self.database.reading() as connection:
            row = connection.execute(sql, (item_id,)).fetchone()
        return None if row is None else _listed(row)

    def page(self, *, after: str, limit: int) -> list[ListedItem]:
        """Up to `limit` items with ids after `after`, in id order."""
        sql = f"select {_LISTED} from items where id > ? order by id limit ?"  # noqa: S608
        with self.database.reading() as connection:
            return [_listed(row) for row in connection.execute(sql, (after, limit)).fetchall()]

    def thumbnail(self, item_id: str) -> bytes | None:
        sql = "select thumbnail from pictures join items on item = number where id = ?"
        with self.database.reading() as connection:
            row = connection.execute(sql, (item_id,)).fetchone()
        return None if row is None else bytes(row[0])

    def image(self, number: int) -> bytes | None:
        with self.database.reading() as connection:
            row = connection.execute("select image from pictures where item = ?", (number,)).fetchone()
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

    def changes(self) -> int:
        """How many writes there were: each has a number, which its items keep until they are written again."""
        with self.database.reading() as connection:
            return _changes(connection)

    def changed_since(self, change: int) -> list[int]:
        """The numbers of all items that were written or erased after a change, ascending."""
        sql = (
            "select number from items where changed > ? union select number from erased where changed > ? "
            "order by number"
        )
        with self.database.reading() as connection:
            return [int(row[0]) for row in connection.execute(sql, (change, change))]

    def store_id(self) -> str:
        """What tells this store from any other."""
        with self.database.reading() as connection:
            return str(connection.execute("select value from meta where key = 'store_id'").fetchone()[0])

    def keys(self, numbers: Sequence[int], *, distinct: Distinct) -> dict[int, str]:
        """What items of one kind have in common, their note's digest or their group, by number; none for some."""
        column = {"note": "note_digest", "group": "grp"}[distinct]
        sql = (
            f"select number, {column} from items "  # noqa: S608 - a name from above
            f"where number in (select value from json_each(?)) and {column} is not null"
        )
        with self.database.reading() as connection:
            return dict(connection.execute(sql, (json.dumps(list(numbers)),)).fetchall())

    def with_digests(self, digests: Mapping[str, str]) -> dict[str, int]:
        """Of ids and digests (Record.digest) those items that are held just so: id -> number."""
        sql = (
            "select items.id, number from json_each(?) as asked join items on items.id = asked.key "
            "where items.digest = asked.value"
        )
        with self.database.reading() as connection:
            return dict(connection.execute(sql, (json.dumps(digests),)).fetchall())

    def count(self) -> int:
        with self.database.reading() as connection:
            return int(connection.execute("select count(*) from items").fetchone()[0])


def _numbers(rows: sqlite3.Cursor) -> npt.NDArray[np.int64]:
    return np.fromiter((row[0] for row in rows), dtype=np.int64)


def _item(row: Sequence[Any]) -> StoredItem:
    number, item_id, note, metadata, group, version, has_image, digest, signs = row
    return StoredItem(number, item_id, note, json.loads(metadata), group, version, bool(has_image), digest, signs)


def _listed(row: Sequence[Any]) -> ListedItem:
    held = (row[0] or "").split(",")
    return ListedItem(_item(row[1:]), [route for route in ROUTES if route in held])


def _changes(connection: sqlite3.Connection) -> int:
    row = connection.execute("select value from meta where key = 'changes'").fetchone()
    return 0 if row is None else int(row[0])


def _next_change(connection: sqlite3.Connection) -> int:
    change = _changes(connection) + 1
    connection.execute("insert or replace into meta values ('changes', ?)", (str(change),))
    return change


def _upsert(connection: sqlite3.Connection, item: NewItem, *, model_id: str, change: int) -> Written:
    held = connection.execute("select number, version from items where id = ?", (item.id,)).fetchone()
    values = (
        item.note,
        json.dumps(item.metadata, ensure_ascii=False),
        item.group,
        item.image is not None,
        datetime.now(UTC).isoformat(timespec="milliseconds"),
        change,
        item.note_digest,
        item.signs,
        item.digest,
    )
    if held is None:
        sql = (
            "insert into items "
            "(note, metadata, grp, has_image, updated_at, changed, note_digest, signs, digest, id, version) "
            "values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1) returning number"
        )
        (number,) = connection.execute(sql, (*values, item.id)).fetchone()
    else:
        number = int(held[0])
        for table in ("pictures", "facts", "vectors"):
            connection.execute(f"delete from {table} where item = ?", (number,))  # noqa: S608 - names from above
        connection.execute(
            "update items set note = ?, metadata = ?, grp = ?, has_image = ?, updated_at = ?, changed = ?, "
            "note_digest = ?, signs = ?, digest = ?, version = version + 1 where number = ?",
            (*values, number),
        )
    _write_parts(connection, number, item, model_id=model_id)
    return Written(number=number, created=held is None)


def _write_parts(connection: sqlite3.Connection, number: int, item: NewItem, *, model_id: str) -> None:
    if item.image is not None:
        connection.execute("insert into pictures values (?, ?, ?)", (number, item.image, item.thumbnail))
    connection.executemany("insert into facts values (?, ?, ?)", _fact_rows(number, item.metadata))
    connection.executemany(
        "insert into vectors values (?, ?, ?, ?)",
        [(number, route, model_id, vector.tobytes()) for route, vector in item.vectors.items()],
    )


def _fact_rows(number: int, metadata: Mapping[str, Any]) -> Iterator[tuple[int, str, SqlValue]]:
    # 1 and 1.0 are the same fact for SQLite, and for Python's dict as well.
    for path, value in dict.fromkeys(facts(metadata)):
        yield number, path, value
