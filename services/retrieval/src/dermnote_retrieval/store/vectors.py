"""Vectors by model, and the notes of which model the store serves or moves to.

While a store moves to another model it holds vectors of both; an item's write drops all its old ones.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dermnote_contracts.retrieval import Route
from dermnote_retrieval.store.database import Database
from dermnote_retrieval.store.items import ROUTES

Vectors = npt.NDArray[np.float32]
Role = Literal["active", "target"]

# (item, version, route) of every vector that a model still has to make.
_LACKING = """
from items, (select 'notes' as wanted union all select 'images')
where ((wanted = 'notes' and note is not null) or (wanted = 'images' and has_image))
and not exists (select 1 from vectors where model_id = ? and route = wanted and item = number)
"""


@dataclass(frozen=True)
class ModelRef:
    """A model as the store remembers it."""

    name: str
    model_id: str


@dataclass(frozen=True)
class NewVector:
    """A vector made from an item as it was at `version`."""

    number: int
    version: int
    route: Route
    vector: Vectors


class VectorStore:
    """Reads and writes vectors."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def model(self, role: Role) -> ModelRef | None:
        """The model that is served, or the one that the store moves to."""
        sql = "select value from meta where key in (?, ?) order by key"
        with self.database.reading() as connection:
            rows = connection.execute(sql, (f"{role}_model", f"{role}_model_id")).fetchall()
        return ModelRef(name=rows[0][0], model_id=rows[1][0]) if len(rows) == 2 else None

    def set_target(self, model: ModelRef | None) -> None:
        """Remember the model that the store moves to, or forget it."""
        with self.database.transaction() as connection:
            _set_model(connection, "target", model)

    def adopt(self, model: ModelRef) -> None:
        """Serve a model from now on: it becomes the active one, and the vectors of all others are erased."""
        with self.database.transaction() as connection:
            _set_model(connection, "active", model)
            _set_model(connection, "target", None)
            connection.execute("delete from vectors where model_id <> ?", (model.model_id,))

    def counts(self, model_id: str) -> dict[Route, int]:
        sql = "select count(*) from vectors where model_id = ? and route = ?"
        with self.database.reading() as connection:
            return {route: connection.execute(sql, (model_id, route)).fetchone()[0] for route in ROUTES}

    def chunks(self, *, model_id: str, route: Route, size: int = 4096) -> Iterator[tuple[list[int], Vectors]]:
        """All vectors of a route as (numbers, rows [n, dim]), `size` at a time."""
        sql = "select item, vector from vectors where model_id = ? and route = ? and item > ? order by item limit ?"
        last = 0
        while True:
            with self.database.reading() as connection:
                rows = connection.execute(sql, (model_id, route, last, size)).fetchall()
            if not rows:
                return
            last = rows[-1][0]
            yield (
                [row[0] for row in rows],
                np.frombuffer(b"".join(row[1] for row in rows), np.float32).reshape(len(rows), -1),
            )

    def of(self, numbers: Sequence[int], *, model_id: str, route: Route) -> tuple[list[int], Vectors]:
        """(numbers, rows [n, dim]) of those items that have a vector of a route."""
        sql = (
            "select item, vector from vectors where model_id = ? and route = ? "
            "and item in (select value from json_each(?)) order by item"
        )
        with self.database.reading() as connection:
            rows = connection.execute(sql, (model_id, route, json.dumps(list(numbers)))).fetchall()
        vectors = np.frombuffer(b"".join(row[1] for row in rows), np.float32)
        return [row[0] for row in rows], vectors.reshape(len(rows), -1 if rows else 0)

    def lacking(self, model_id: str, *, start: int, limit: int) -> list[tuple[int, int, Route]]:
        """Up to `limit` (number, version, route), from number `start` on, that have no vector of a model yet."""
        sql = f"select number, version, wanted {_LACKING} and number >= ? order by number limit ?"
        with self.database.reading() as connection:
            return connection.execute(sql, (model_id, start, limit)).fetchall()

    def count_lacking(self, model_id: str) -> int:
        with self.database.reading() as connection:
            return int(connection.execute(f"select count(*) {_LACKING}", (model_id,)).fetchone()[0])

    def add(self, vectors: Sequence[NewVector], *, model_id: str) -> None:
        """Keep the vectors whose item is still what it was when they were made; pass over the others."""
        sql = "insert or replace into vectors select number, ?, ?, ? from items where number = ? and version = ?"
        with self.database.transaction() as connection:
            connection.executemany(
                sql, [(new.route, model_id, new.vector.tobytes(), new.number, new.version) for new in vectors]
            )


def _set_model(connection: sqlite3.Connection, role: Role, model: ModelRef | None) -> None:
    connection.execute("delete from meta where key in (?, ?)", (f"{role}_model", f"{role}_model_id"))
    if model is not None:
        rows = [(f"{role}_model", model.name), (f"{role}_model_id", model.model_id)]
        connection.executemany("insert into meta values (?, ?)", rows)
