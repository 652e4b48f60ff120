"""Vectors by model, and which model is active (served) and which is the target (the next one, during re-embedding).

During re-embedding, the store holds vectors of both models. A write of an item drops all its old vectors.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dermnote_contracts.retrieval import Route
from dermnote_retrieval.store.database import Database
from dermnote_retrieval.store.items import ROUTES

Numbers = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Role = Literal["active", "target"]
SCAN_ROWS = 4096

# (item, version, route) of every vector that a model has not computed yet.
_MISSING = """
from items, (select 'notes' as needed union all select 'images')
where ((needed = 'notes' and note is not null) or (needed = 'images' and has_image))
and not exists (select 1 from vectors where model_id = ? and route = needed and item = number)
"""


@dataclass(frozen=True)
class ModelRef:
    """A model as the store records it."""

    name: str
    model_id: str


@dataclass(frozen=True)
class NewVector:
    """A vector computed from version `version` of an item."""

    number: int
    version: int
    route: Route
    vector: Vectors


class VectorStore:
    """Reads and writes vectors."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def model(self, role: Role) -> ModelRef | None:
        """The model that is served, or the one that the store is re-embedded for; None if there is none."""
        sql = "select value from meta where key in (?, ?) order by key"
        rows = self.database.rows(sql, f"{role}_model", f"{role}_model_id")
        return ModelRef(name=rows[0][0], model_id=rows[1][0]) if len(rows) == 2 else None

    def set_target(self, model: ModelRef | None) -> None:
        """Record the model that the store is re-embedded for, or that there is none."""
        with self.database.transaction() as connection:
            _set_model(connection, "target", model)

    def adopt(self, model: ModelRef) -> None:
        """Make a model the active one and erase the vectors of all others."""
        with self.database.transaction() as connection:
            _set_model(connection, "active", model)
            _set_model(connection, "target", None)
            connection.execute("delete from vectors where model_id <> ?", (model.model_id,))

    def counts(self, model_id: str) -> dict[Route, int]:
        """Number of vectors per route."""
        sql = "select count(*) from vectors where model_id = ? and route = ?"
        return {route: self.database.row(sql, model_id, route)[0] for route in ROUTES}

    def read_all(self, model_id: str, *, widths: Mapping[Route, int]) -> dict[Route, tuple[Numbers, Vectors]]:
        """All vectors of a model per route: (numbers [n] ascending, rows [n, dim]). Nothing may be written meanwhile.

        A single scan of the table in page order serves both routes; a scan by index would jump between pages.
        """
        routes: dict[Route, tuple[Numbers, Vectors]] = {}
        with self.database.reading() as connection:
            for route, width in widths.items():
                sql = "select item from vectors where model_id = ? and route = ? order by item"
                numbers = np.fromiter((row[0] for row in connection.execute(sql, (model_id, route))), np.int64)
                routes[route] = (numbers, np.empty((len(numbers), width), np.float32))
            scan = connection.execute(
                "select route, item, vector from vectors not indexed where model_id = ?", (model_id,)
            )
            while rows := scan.fetchmany(SCAN_ROWS):
                for route, (numbers, vectors) in routes.items():
                    part = [row for row in rows if row[0] == route]
                    values = np.frombuffer(b"".join(row[2] for row in part), np.float32)
                    at = np.searchsorted(numbers, [row[1] for row in part])
                    vectors[at] = values.reshape(len(part), vectors.shape[1])
        return routes

    def missing(self, model_id: str, *, start: int, limit: int) -> list[tuple[int, int, Route]]:
        """Up to `limit` (number, version, route), from number `start` on, that have no vector of a model yet."""
        sql = f"select number, version, needed {_MISSING} and number >= ? order by number limit ?"
        return self.database.rows(sql, model_id, start, limit)

    def count_missing(self, model_id: str) -> int:
        """Number of vectors that a model has not computed yet."""
        return int(self.database.row(f"select count(*) {_MISSING}", model_id)[0])

    def add(self, vectors: Sequence[NewVector], *, model_id: str) -> None:
        """Store vectors, except those whose item has changed since."""
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
