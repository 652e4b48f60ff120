"""A data set's notes over HTTP: batches with bounded concurrency, resumed where the last run stopped."""

import hashlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dermnote_contracts.notes import ALL_TOPICS, NoteJob, NoteOptions, NoteRequest, OnUnfaithful, Strategy, Topic
from dermnote_train.data.records import LesionDataset, Record
from dermnote_train.errors import UserError
from dermnote_train.notes.table import Journal, NoteRow, row_of, write_notes
from dermnote_train.progress import Report, Step, silent
from dermnote_train.remote.notegen import NoteService

STAGE = "notes"
STALLED_AFTER_S = 600.0


@dataclass(frozen=True)
class NotesPlan:
    """What to ask for. `seed` and the image's id give each note its own seed, so that a run can be repeated.

    `on_unfaithful`: "keep" takes texts as the language model wrote them, whatever the verifier says.
    """

    strategy: Strategy = "G"
    include: frozenset[Topic] = ALL_TOPICS
    seed: int = 0
    on_unfaithful: OnUnfaithful = "retry"
    batch_size: int = 64
    open_batches: int = 4


@dataclass(frozen=True)
class NotesRun:
    """What came of it. `asked`: notes asked for in this run; the others were there already. `failed`: id -> reason."""

    rows: tuple[NoteRow, ...]
    failed: Mapping[str, str]
    asked: int
    seconds: float
    path: Path

    @property
    def texts(self) -> dict[str, str]:
        """image_id -> note."""
        return {row.image_id: row.text for row in self.rows}

    @property
    def notes_per_s(self) -> float | None:
        """Notes written a second in this run; None if all were there already."""
        return self.asked / self.seconds if self.asked else None


@dataclass(frozen=True)
class _Wanted:
    record: Record
    request: NoteRequest
    key: str


@dataclass
class _OpenBatch:
    batch_id: str
    wanted: Sequence[_Wanted]
    ended: int = 0


@dataclass
class _Queue:
    """Batches waiting to be sent, batches that the service works on, and what failed."""

    waiting: deque[Sequence[_Wanted]]
    working: list[_OpenBatch] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    ended: int = 0  # of batches that are done


def write_dataset_notes(
    service: NoteService, dataset: LesionDataset, *, plan: NotesPlan, out: Path, progress: Report = silent
) -> NotesRun:
    """Notes for every record into `out`/notes.parquet; the journal beside it makes a second run ask for the rest only.

    A note counts as there already when the very same request (metadata, strategy, seed ...) was answered before by the
    same prompt version, clinical priors and language model.
    """
    journal = Journal(out / f"notes-{plan.strategy}.journal.jsonl")
    writer = _writer(service, plan)
    wanted = [_wanted(record, plan, writer=writer) for record in dataset.records]
    chunks = [
        [one for one in wanted[start : start + plan.batch_size] if one.key not in journal.rows]
        for start in range(0, len(wanted), plan.batch_size)
    ]
    queue = _Queue(deque(chunk for chunk in chunks if chunk))
    asked = sum(map(len, queue.waiting))
    begun = time.monotonic()
    _work(service, queue, journal, dataset=dataset, plan=plan, progress=_counting(progress, len(wanted), asked))
    rows = tuple(journal.rows[one.key] for one in wanted if one.key in journal.rows)
    path = out / "notes.parquet"
    write_notes(path, rows)
    return NotesRun(rows, queue.failed, asked, time.monotonic() - begun, path)


def _counting(progress: Report, total: int, asked: int) -> Report:
    """Progress in notes of the whole data set, those already there included."""
    return lambda step: progress(Step(STAGE, total - asked + step.done, total, step.detail))


def _writer(service: NoteService, plan: NotesPlan) -> str:
    """What notes depend on beside the request: the versions of prompt and priors, and the model's weights."""
    offered = {strategy.id: strategy for strategy in service.strategies()}
    if plan.strategy not in offered:
        raise UserError(f"the note service does not offer strategy {plan.strategy}; it offers {', '.join(offered)}")
    strategy = offered[plan.strategy]
    if not strategy.uses_llm:
        return f"{strategy.prompt_version}\n"
    model = service.model()
    weights = model.sha256 or model.name  # another server's model has a name alone
    return f"{strategy.prompt_version}\n{service.priors().version}\n{weights}"


def _wanted(record: Record, plan: NotesPlan, *, writer: str) -> _Wanted:
    digest = hashlib.sha256(f"{plan.seed}:{record.image_id}".encode()).digest()
    request = NoteRequest(
        metadata=record.metadata,
        strategy=plan.strategy,
        include=plan.include,
        options=NoteOptions(seed=int.from_bytes(digest[:4]) % 2**31, on_unfaithful=plan.on_unfaithful),
    )
    content = f"{record.image_id}\n{writer}\n{_canonical(request)}"
    return _Wanted(record, request, hashlib.sha256(content.encode()).hexdigest())


def _canonical(request: NoteRequest) -> str:
    include = sorted(request.include)
    return f"{request.model_dump_json(exclude={'include'}, exclude_none=True)}\n{include}"


def _work(
    service: NoteService, queue: _Queue, journal: Journal, *, dataset: LesionDataset, plan: NotesPlan, progress: Report
) -> None:
    moved = time.monotonic()
    pause_s = 0.05
    while queue.waiting or queue.working:
        while queue.waiting and len(queue.working) < plan.open_batches:
            queue.working.append(_send(service, queue.waiting.popleft(), journal))
        before = queue.ended + sum(batch.ended for batch in queue.working)
        _look(service, queue, journal, dataset=dataset)
        done = queue.ended + sum(batch.ended for batch in queue.working)
        progress(Step(STAGE, done, 0, f"{len(queue.failed)} failed" if queue.failed else ""))
        pause_s = 0.05 if done > before else min(pause_s * 1.5, 1.0)
        moved = time.monotonic() if done > before else moved
        if time.monotonic() - moved > STALLED_AFTER_S:
            raise UserError(
                f"no note has ended for {STALLED_AFTER_S:g} s; look at the worker's log, then run the same command "
                "again: it goes on where it stopped"
            )
        if queue.working:
            time.sleep(pause_s)


def _send(service: NoteService, wanted: Sequence[_Wanted], journal: Journal) -> _OpenBatch:
    """The key is made from the content, so a batch that a broken run had sent is found again, not written twice."""
    attempt = max(journal.failures.get(one.key, 0) for one in wanted)
    content = "\n".join([str(attempt), *(one.key for one in wanted)])
    key = hashlib.sha256(content.encode()).hexdigest()
    batch = service.submit_batch([one.request for one in wanted], idempotency_key=key)
    return _OpenBatch(batch.id, wanted)


def _look(service: NoteService, queue: _Queue, journal: Journal, *, dataset: LesionDataset) -> None:
    for batch in tuple(queue.working):
        counts = service.batch(batch.batch_id).counts
        batch.ended = len(batch.wanted) - counts.queued - counts.running  # one that was erased has ended too
        if batch.ended < len(batch.wanted):
            continue
        jobs = {job.index: job for job in service.batch_notes(batch.batch_id)}
        queue.working.remove(batch)
        queue.ended += len(batch.wanted)
        _keep(batch, jobs, queue, journal, dataset=dataset)


def _keep(
    batch: _OpenBatch, jobs: Mapping[int | None, NoteJob], queue: _Queue, journal: Journal, *, dataset: LesionDataset
) -> None:
    failed = {}
    rows = []
    for index, one in enumerate(batch.wanted):
        job = jobs.get(index)
        if job is not None and job.status == "finished" and job.notes:
            rows.append(row_of(one.record, job.notes[0], dataset=dataset, request=one.key))
        else:
            failed[one.key] = one.record.image_id
            queue.failed[one.record.image_id] = _reason(job)
    journal.finished(rows)
    journal.failed(list(failed))


def _reason(job: NoteJob | None) -> str:
    if job is None:
        return "the service no longer has it"
    return (job.error.detail or job.error.title) if job.error else job.status
