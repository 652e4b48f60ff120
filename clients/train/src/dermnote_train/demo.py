"""The whole pipeline on one data set: notes, training, evaluation, export, index, search. Writes no report."""

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import zip_longest
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
from dermnote_train.index import IndexRun, item_id, push, search_similar
from dermnote_train.models.export import export_model
from dermnote_train.models.run_folder import write_run_data
from dermnote_train.notes.request import NotesPlan, NotesRun, write_dataset_notes
from dermnote_train.progress import Report, Step
from dermnote_train.remote.notegen import NoteService
from dermnote_train.remote.retrieval import RetrievalService
from dermnote_train.training.train import TrainResult, train


@dataclass(frozen=True)
class DemoPlan:
    """Settings of a run.

    `compare`: also train a model on images alone, with the same settings; `queries`: number of held-out images to
    search with; `k`: hits per query.
    """

    strategy: Strategy = "G"
    config: TrainConfig = field(default_factory=TrainConfig)
    class_set: ClassSet = "paper5"
    compare: bool = True
    queries: int = 6
    k: int = 5
    via: Via = "fused"


@dataclass(frozen=True)
class Arm:
    """A trained model and its evaluation on the held-out test part."""

    name: str
    result: TrainResult
    evaluation: Evaluation


@dataclass(frozen=True)
class RankedHit:
    """A search hit, its record, and whether it has the query's class."""

    hit: Hit
    record: Record
    same_class: bool


@dataclass(frozen=True)
class QueryResult:
    """The hits of a held-out image."""

    query: Record
    hits: tuple[RankedHit, ...]
    routes: tuple[Route, ...]
    took_ms: float


@dataclass(frozen=True)
class DemoResult:
    """Results of a run, in the order of its stages. `seconds`: wall time by stage."""

    dataset: LesionDataset
    plan: DemoPlan
    split: Split
    notes: NotesRun
    language_model: ModelInfo
    arms: tuple[Arm, ...]
    manifest: ModelManifest
    index: IndexRun
    index_info: IndexInfo
    queries: tuple[QueryResult, ...]
    seconds: Mapping[str, float]

    @property
    def model(self) -> Arm:
        """The arm that was exported to the retrieval service."""
        return self.arms[0]


def run_demo(
    dataset: LesionDataset,
    *,
    plan: DemoPlan,
    note_service: NoteService,
    retrieval: RetrievalService,
    models_dir: Path,
    out: Path,
    progress: Report,
    print_line: Callable[[str], None],
) -> DemoResult:
    """Run the pipeline; writes below `out` and to `models_dir`, from which the retrieval service loads models.

    Raises UserError or DermnoteError at the first failure; the next run reuses the notes written so far.
    """
    seconds: dict[str, float] = {}
    split = split_dataset(dataset, seed=plan.config.seed)
    print_line(
        f"{dataset.name}: {len(split.train)} images for training, {len(split.val)} for validation, "
        f"{len(split.test)} held out"
    )
    with _timed(seconds, "notes"):
        notes_plan = NotesPlan(strategy=plan.strategy, seed=plan.config.seed)
        notes = write_dataset_notes(note_service, dataset, plan=notes_plan, out=out, progress=progress)
        _check_failures("notes failed", notes.failed)
    with _timed(seconds, "training"):
        model = _arm("image + notes", dataset, split, notes.texts, plan=plan, run_dir=out / "model", progress=progress)
        write_run_data(out / "model", dataset, split=split, class_set=plan.class_set, strategy=plan.strategy)
    arms = [model]
    if plan.compare:
        with _timed(seconds, "training on images alone"):
            arms.append(
                _arm("images alone", dataset, split, None, plan=plan, run_dir=out / "image-only", progress=progress)
            )
    with _timed(seconds, "export and swap"):
        manifest = _serve(model.result, dataset, retrieval=retrieval, models_dir=models_dir, progress=progress)
    pool = (*split.train, *split.val)
    run = _run_id(pool, manifest)
    with _timed(seconds, "index"):
        index = push(retrieval, dataset, records=pool, notes=notes.texts, run=run, progress=progress)
        _check_failures("items were not stored", index.failed)
    with _timed(seconds, "search"):
        queries = tuple(
            _search(query, dataset, pool, plan=plan, run=run, service=retrieval)
            for query in _query_records(split.test, dataset.classes, plan=plan)
        )
    return DemoResult(
        dataset=dataset,
        plan=plan,
        split=split,
        notes=notes,
        language_model=note_service.model(),
        arms=tuple(arms),
        manifest=manifest,
        index=index,
        index_info=retrieval.index_info(),
        queries=queries,
        seconds=seconds,
    )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - started


def _check_failures(what: str, failed: Mapping[str, str]) -> None:
    if failed:
        name, reason = next(iter(failed.items()))
        raise UserError(f"{len(failed)} {what} (first {name}: {reason}); run the same command again to retry them")


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
    def report(step: Step) -> None:
        progress(replace(step, stage=f"{name}: {step.stage}"))

    result = train(plan.config, split=split, classes=dataset.classes, notes=notes, run_dir=run_dir, progress=report)
    evaluation = evaluate(result.model, records=split.test, notes=notes, seed=plan.config.seed, progress=report)
    return Arm(name, result, evaluation)


def _serve(
    result: TrainResult,
    dataset: LesionDataset,
    *,
    retrieval: RetrievalService,
    models_dir: Path,
    progress: Report,
) -> ModelManifest:
    """Export the model and wait until the retrieval service uses it."""
    name = f"demo-{dataset.name}"
    folder = export_model(result.model, models_dir=models_dir, name=name, synthetic=dataset.synthetic)
    manifest = ModelManifest.model_validate_json((folder / MANIFEST_NAME).read_text("utf-8"))
    retrieval.activate_model(name)

    def report(share: float) -> None:
        progress(Step("re-embed index", round(100 * share), 100, "%"))

    retrieval.wait_active(name, model_id=manifest.model_id, on_progress=report)
    return manifest


def _run_id(pool: Sequence[Record], manifest: ModelManifest) -> str:
    """Identifies this run's items, so that a search never returns items of an earlier run with another split."""
    content = "\n".join([manifest.model_id, *sorted(record.image_id for record in pool)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _query_records(test: Sequence[Record], classes: Sequence[str], *, plan: DemoPlan) -> list[Record]:
    """Held-out records, alternating between the classes, in an order drawn with the run's seed."""
    shuffled = random.Random(plan.config.seed).sample(list(test), len(test))
    by_class = [[record for record in shuffled if record.label == name] for name in classes]
    rounds = zip_longest(*by_class)
    return [record for turn in rounds for record in turn if record is not None][: plan.queries]


def _search(
    query: Record,
    dataset: LesionDataset,
    pool: Sequence[Record],
    *,
    plan: DemoPlan,
    run: str,
    service: RetrievalService,
) -> QueryResult:
    response = search_similar(service, query, dataset=dataset, k=plan.k, via=plan.via, run=run)
    records = {item_id(dataset.name, record.image_id): record for record in pool}
    hits = tuple(RankedHit(hit, records[hit.id], records[hit.id].label == query.label) for hit in response.hits)
    if not hits:
        raise UserError(f"the retrieval service found nothing for {query.image_id}; check its log")
    return QueryResult(query, hits, tuple(response.routes), response.took_ms)
