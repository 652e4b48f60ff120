"""Any sequence of writes, searches, snapshots, restores and restarts, compared with a dict and a numpy scan."""

import asyncio
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from dermnote_contracts.problems import UnknownItem
from dermnote_contracts.retrieval import Exclude, Route
from dermnote_retrieval.encoder.base import Vectors
from dermnote_retrieval.ingest.records import Record
from dermnote_retrieval.query.executor import Scope
from dermnote_retrieval.runtime.metrics import StepTimer
from dermnote_retrieval.service import Service, open_service
from dermnote_retrieval.settings import Settings
from tests.effort import amount

MODEL = "dummy-aligned"
DIM = 64
CHUNK = 7
IDS = st.sampled_from([f"i{number}" for number in range(24)])
GROUPS = st.sampled_from([None, "p1", "p2", "p3"])
AGES = st.one_of(st.none(), st.integers(20, 60))
# Few different vectors, so that equal ones occur.
SEEDS = st.one_of(st.none(), st.integers(0, 40))
ROUTES: tuple[Route, ...] = ("notes", "images")


def drawn(seed: int) -> Vectors:
    values = np.random.default_rng(seed).normal(size=DIM)
    unit: Vectors = (values / np.linalg.norm(values)).astype(np.float32)
    return unit


@dataclass(frozen=True)
class ExpectedItem:
    """The expected content of an item."""

    vectors: dict[Route, Vectors]
    age: int | None
    group: str | None


@dataclass(frozen=True)
class ExampleSearch:
    """A search. `min_age`: least age that passes the filter."""

    seed: int
    via: Route
    k: int
    min_age: int | None
    ids: list[str]
    groups: list[str]

    @property
    def scope(self) -> Scope:
        """The scope of the service's search."""
        spec: dict[str, Any] | None = None if self.min_age is None else {"age": {"gte": self.min_age}}
        return Scope(k=self.k, via=self.via, filter=spec, exclude=Exclude(ids=self.ids, groups=self.groups))

    def allows(self, item_id: str, item: ExpectedItem) -> bool:
        """Whether it may return an item."""
        old_enough = self.min_age is None or (item.age is not None and item.age >= self.min_age)
        return self.via in item.vectors and item_id not in self.ids and item.group not in self.groups and old_enough


SEARCHES = st.builds(
    ExampleSearch,
    seed=st.integers(0, 60),
    via=st.sampled_from(ROUTES),
    k=st.integers(1, 30),
    min_age=st.one_of(st.none(), st.integers(15, 65)),
    ids=st.lists(IDS, max_size=3),
    groups=st.lists(st.sampled_from(["p1", "p2"]), max_size=1),
)


def alike(one: ExpectedItem, other: ExpectedItem) -> bool:
    """Whether two items have the same content."""
    same = (one.age, one.group, one.vectors.keys()) == (other.age, other.group, other.vectors.keys())
    return same and all(np.array_equal(one.vectors[route], other.vectors[route]) for route in one.vectors)


def opened(folder: Path) -> Service:
    """The service over a folder; lists are built from 10 vectors on."""
    return open_service(Settings(data_dir=folder, encoder="dummy", model=MODEL, flat_vectors=10, recall_goal=1))


class AnySequence(RuleBasedStateMachine):
    """Calls of the service; `expected` is what it must hold."""

    snapshots: Bundle[tuple[str, dict[str, ExpectedItem]]] = Bundle("snapshots")

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dermnote-any-"))
        self.expected: dict[str, ExpectedItem] = {}
        self.service = opened(self.folder / "data")

    def teardown(self) -> None:
        self.service.close()
        shutil.rmtree(self.folder)

    @rule(item_id=IDS, notes=SEEDS, images=SEEDS, age=AGES, group=GROUPS)
    def upsert(self, item_id: str, notes: int | None, images: int | None, age: int | None, group: str | None) -> None:
        seeds: dict[Route, int | None] = {"notes": notes, "images": images}
        vectors = {route: drawn(seed) for route, seed in seeds.items() if seed is not None}
        metadata = {} if age is None else {"age": age}
        record = Record(item_id, None, metadata, group, None, vectors, f"{MODEL}-1")
        assert self.service.writer.put(record) == (item_id not in self.expected)
        self.expected[item_id] = ExpectedItem(vectors, age, group)

    @rule(items=st.lists(st.tuples(IDS, st.integers(0, 40)), min_size=1, max_size=20))
    def load(self, items: list[tuple[str, int]]) -> None:
        records = [Record(i, None, vectors={"notes": drawn(seed)}, model_id=f"{MODEL}-1") for i, seed in items]
        outcomes = list(self.service.writer.load(records, chunk=CHUNK))
        for place, (outcome, (item_id, seed)) in enumerate(zip(outcomes, items, strict=True)):
            chunk = items[place // CHUNK * CHUNK :][:CHUNK]
            new = ExpectedItem({"notes": drawn(seed)}, None, None)
            alone = [name for name, _ in chunk].count(item_id) == 1
            known = alone and item_id in self.expected and alike(self.expected[item_id], new)
            assert outcome.status == ("unchanged" if known else "updated" if item_id in self.expected else "created")
            self.expected[item_id] = new

    @rule(item_id=IDS)
    def delete(self, item_id: str) -> None:
        if item_id in self.expected:
            self.service.writer.delete(item_id)
            del self.expected[item_id]
        else:
            with pytest.raises(UnknownItem):
                self.service.writer.delete(item_id)

    @rule(example=SEARCHES)
    def search(self, example: ExampleSearch) -> None:
        query = drawn(example.seed)
        search = self.service.search
        hits = asyncio.run(search.answer(search.by_vector(query.tolist(), example.scope, timer=StepTimer()))).hits

        allowed = {name: item for name, item in self.expected.items() if example.allows(name, item)}
        cosines = {name: float(item.vectors[example.via] @ query) for name, item in allowed.items()}
        scores = [hit.score for hit in hits]
        assert len(hits) == len({hit.id for hit in hits}) == min(example.k, len(cosines))
        assert scores == pytest.approx([cosines[hit.id] for hit in hits], abs=1e-5)
        assert scores == sorted(scores, reverse=True)
        if self.service.writer.served.indexes[example.via].kind == "flat":
            assert scores == pytest.approx(sorted(cosines.values(), reverse=True)[: example.k], abs=1e-5)

    @rule()
    def maintain(self) -> None:
        """The maintenance that runs once per second."""
        self.service.maintenance.run_once()

    @rule(target=snapshots)
    def snapshot(self) -> tuple[str, dict[str, ExpectedItem]]:
        return self.service.snapshots.take().id, dict(self.expected)

    @rule(taken=consumes(snapshots))
    def restore(self, taken: tuple[str, dict[str, ExpectedItem]]) -> None:
        self.service.restore.run(taken[0])
        self.expected = dict(taken[1])

    @rule()
    def restart(self) -> None:
        self.service.close()
        self.service = opened(self.folder / "data")

    @rule()
    def crash(self) -> None:
        """Start from the files without a clean shutdown: the write-ahead log is not merged."""
        copy = self.folder / "crashed"
        shutil.copytree(self.folder / "data", copy)
        self.service.close()
        shutil.rmtree(self.folder / "data")
        copy.rename(self.folder / "data")
        self.service = opened(self.folder / "data")

    @invariant()
    def counts_agree(self) -> None:
        assert self.service.items.count() == len(self.expected)
        assert self.service.writer.consistent()
        for route, index in self.service.writer.served.indexes.items():
            assert len(index) == sum(route in item.vectors for item in self.expected.values())


AnySequence.TestCase.settings = settings(
    max_examples=amount(60, 500), stateful_step_count=14, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAnySequence = AnySequence.TestCase
