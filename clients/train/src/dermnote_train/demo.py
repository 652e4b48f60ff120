"""The whole way on one data set: notes, training, evaluation, export, index, search. Prints and renders nothing."""

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from dermnote_contracts.manifest import MANIFEST_NAME, ModelManifest
from dermnote_contracts.notes import ModelInfo, Strategy
from dermnote_contracts.retrieval import Hit, IndexInfo, Route, Via
from dermnote_train.config import TrainConfig
from dermnote_train.data.labels import ClassSet
from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.data.splits import split_dataset
from dermnote_train.errors import UserError
from dermnote_train.evaluation.evaluate import evaluate
from dermnote_train.evaluation.results import Evaluation
from dermnote_train.index import IndexRun, item_id, push, search_like
from dermnote_train.models.export import export_model
from dermnote_train.models.run_folder import write_run_data
from dermnote_train.notes.request import NotesPlan, NotesRun, write_dataset_notes
from dermnote_train.progress import Report, Step
from dermnote_train.remote.notegen import NoteService
from dermnote_train.remote.retrieval import RetrievalService
from dermnote_train.training.train import TrainResult, train

Say = Callable[[str], None]


@dataclass(frozen=True)
class DemoPlan:
    """Settings of a run. `compare`: also train on images alone, with the same budget. `queries`: held-out pictures."""

    strategy: Strategy = "G"
    config: TrainConfig = field(default_factory=TrainConfig)
    class_set: ClassSet = "paper5"
    compare: bool = True
    queries: int = 6
    k: int = 5
    via: Via = "fused"


@dataclass(frozen=True)
class Services:
    """The two services and the folder that retrieval loads models from."""

    notes: NoteService
    retrieval: RetrievalService
    models_dir: Path


@dataclass(frozen=True)
class Arm:
    """One trained model and what it is worth on the held-out test part."""

    name: str
    result: TrainResult
    evaluation: Evaluation


@dataclass(frozen=True)
class FoundHit:
    """A hit with the record that it is, and whether it has the query's class."""

    hit: Hit
    record: Record
    same_class: bool


@dataclass(frozen=True)
class Found:
    """What a held-out picture found."""

    query: Record
    hits: tuple[FoundHit, ...]
    routes: tuple[Route, ...]
    took_ms: float


@dataclass(frozen=True)
class DemoResult:
    """Everything that a run did, in the order in which it did it. `seconds`: wall time by stage."""

    dataset: LesionDataset
    plan: DemoPlan
    split: Split
    notes: NotesRun
    language_model: ModelInfo
    arms: tuple[Arm, ...]
    manifest: ModelManifest
    index: IndexRun
    index_info: IndexInfo
    found: tuple[Found, ...]
    seconds: Mapping[str, float]

    @property
    def model(self) -> Arm:
        """The arm that was exported and searched with."""
        return self.arms[0]


@dataclass
class _Clock:
    """Wall time by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begun


def run_demo(
    dataset: LesionDataset, *, plan: DemoPlan, services: Services, out: Path, progress: Report, say: Say
) -> DemoResult:
    """Notes, training, evaluation, export, index and search; everything written goes below `out` and the models folder.

    Raises UserError or DermnoteError at the first thing that fails; notes written so far are found again next time.
    """
    clock = _Clock()
    split = split_dataset(dataset, seed=plan.config.seed)
    say(
        f"{dataset.name}: {len(split.train)} images to train on, {len(split.val)} to stop by, "
        f"{len(split.test)} held out"
    )

    with clock.stage("notes"):
        notes = _notes(dataset, plan=plan, service=services.notes, out=out, progress=progress)
    with clock.stage("training"):
        model = _arm("image + notes", dataset, split, notes.texts, plan=plan, run_dir=out / "model", progress=progress)
        write_run_data(out / "model", dataset, split=split, class_set=plan.class_set, strategy=plan.strategy)
    arms = [model]
    if plan.compare:
        with clock.stage("training on images alone"):
            arms.append(
                _arm("images alone", dataset, split, None, plan=plan, run_dir=out / "image-only", progress=progress)
            )
    with clock.stage("export and swap"):
        manifest = _serve(model.result, dataset, services=services, progress=progress)
    pool = (*split.train, *split.val)
    run = _run_id(pool, manifest)
    with clock.stage("index"):
        index = push(services.retrieval, dataset, records=pool, notes=notes.texts, run=run, progress=progress)
        _refuse_failures("items were not stored", index.failed)
    with clock.stage("search"):
        found = tuple(
            _search(query, dataset, pool, plan=plan, run=run, service=services.retrieval)
            for query in _queries(split.test, dataset.classes, plan=plan)
        )
    return DemoResult(
        dataset=dataset,
        plan=plan,
        split=split,
        notes=notes,
        language_model=services.notes.model(),
        arms=tuple(arms),
        manifest=manifest,
        index=index,
        index_info=services.retrieval.index_info(),
        found=found,
        seconds=clock.seconds,
    )


def _notes(dataset: LesionDataset, *, plan: DemoPlan, service: NoteService, out: Path, progress: Report) -> NotesRun:
    wanted = NotesPlan(strategy=plan.strategy, seed=plan.config.seed)
    run = write_dataset_notes(service, dataset, plan=wanted, out=out, progress=progress)
    _refuse_failures("notes failed", run.failed)
    return run


def _refuse_failures(what: str, failed: Mapping[str, str]) -> None:
    if failed:
        name, reason = next(iter(failed.items()))
        raise UserError(f"{len(failed)} {what} (first {name}: {reason}); run the same command again to go on")


def _arm(
    name: str,
    dataset: LesionDataset,
    split: Split,
    notes: Mapping[str, str] | None,
    *,
    plan: DemoPlan,
    run_dir: Path,
    progress: Report,
) -> Arm:
    def named(step: Step) -> None:
        progress(replace(step, stage=f"{name}: {step.stage}"))

    result = train(plan.config, split=split, classes=dataset.classes, notes=notes, run_dir=run_dir, progress=named)
    return Arm(
        name, result, evaluate(result.model, records=split.test, notes=notes, seed=plan.config.seed, progress=named)
    )


def _serve(result: TrainResult, dataset: LesionDataset, *, services: Services, progress: Report) -> ModelManifest:
    """Export the model and return once the retrieval service searches with it."""
    name = f"demo-{dataset.name}"
    folder = export_model(result.model, models_dir=services.models_dir, name=name, synthetic=dataset.synthetic)
    manifest = ModelManifest.model_validate_json((folder / MANIFEST_NAME).read_text("utf-8"))
    services.retrieval.activate_model(name)

    def told(share: float) -> None:
        progress(Step("re-embed index", round(100 * share), 100, "%"))

    services.retrieval.wait_active(name, model_id=manifest.model_id, told=told)
    return manifest


def _run_id(pool: Sequence[Record], manifest: ModelManifest) -> str:
    """Marks this run's items, so that a search never meets those that an earlier run, split otherwise, has left."""
    content = "\n".join([manifest.model_id, *sorted(record.image_id for record in pool)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _queries(test: Sequence[Record], classes: Sequence[str], *, plan: DemoPlan) -> list[Record]:
    """Held-out pictures in turn from every class, drawn with the run's seed."""
    drawn = random.Random(plan.config.seed).sample(list(test), len(test))
    by_class = [[record for record in drawn if record.label == name] for name in classes]
    rounds = range(max(map(len, by_class)))
    return [records[turn] for turn in rounds for records in by_class if turn < len(records)][: plan.queries]


def _search(
    query: Record,
    dataset: LesionDataset,
    pool: Sequence[Record],
    *,
    plan: DemoPlan,
    run: str,
    service: RetrievalService,
) -> Found:
    answer = search_like(service, query, dataset=dataset, k=plan.k, via=plan.via, run=run)
    known = {item_id(dataset.name, record.image_id): record for record in pool}
    hits = tuple(FoundHit(hit, known[hit.id], known[hit.id].label == query.label) for hit in answer.hits)
    if not hits:
        raise UserError(f"the retrieval service found nothing for {query.image_id}; look at its log")
    return Found(query, hits, tuple(answer.routes), answer.took_ms)
