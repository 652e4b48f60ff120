"""Requests the notes of a data set over HTTP in concurrent batches, and resumes interrupted runs."""

import hashlib
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dermnote_contracts.notes import ALL_TOPICS, NoteJob, NoteOptions, NoteRequest, OnUnfaithful, Strategy, Topic
from dermnote_train.data.records import LesionDataset, Record
from dermnote_train.errors import UserError
from dermnote_train.notes.table import Journal, NoteRow, row_of, write_notes
from dermnote_train.progress import Report, Step, silent
from dermnote_train.remote.notegen import NoteService

STAGE = "notes"
STALLED_AFTER_S = 600.0
MIN_PAUSE_S, MAX_PAUSE_S = 0.05, 1.0


@dataclass(frozen=True)
class NotesPlan:
    """Settings of the note requests. `seed` and the image id determine each note's seed, so that a run is reproducible.

    `on_unfaithful="keep"` accepts the language model's text whatever the verifier reports.
    """

    strategy: Strategy = "G"
    include: frozenset[Topic] = ALL_TOPICS
    seed: int = 0
    on_unfaithful: OnUnfaithful = "retry"
    batch_size: int = 64
    open_batches: int = 4


@dataclass(frozen=True)
class NotesRun:
    """Result of a run. `requested`: number of notes requested; the others were reused. `failed`: image id -> reason."""

    rows: tuple[NoteRow, ...]
    failed: Mapping[str, str]
    requested: int
    seconds: float
    path: Path

    @property
    def texts(self) -> dict[str, str]:
        """image_id -> note."""
        return {row.image_id: row.text for row in self.rows}

    @property
    def notes_per_s(self) -> float | None:
        """Notes per second in this run; None if all were reused."""
        return self.requested / self.seconds if self.requested else None


@dataclass(frozen=True)
class _ImageRequest:
    """`key`: sha256 of everything that the note depends on."""

    record: Record
    request: NoteRequest
    key: str


@dataclass
class _OpenBatch:
    batch_id: str
    requests: Sequence[_ImageRequest]
    ended: int = 0


def write_dataset_notes(
    service: NoteService, dataset: LesionDataset, *, plan: NotesPlan, out: Path, progress: Report = silent
) -> NotesRun:
    """Write `out`/notes.parquet with a note for every record, reusing the notes in the journal of earlier runs.

    A note is reused if an earlier run made the same request (metadata, strategy, seed ...) and the service still has
    the same prompt version, clinical priors and language model.
    """
    started = time.monotonic()
    journal = Journal(out / f"notes-{plan.strategy}.journal.jsonl")
    writer = _writer_version(service, plan.strategy)
    requests = [_image_request(record, plan, writer=writer) for record in dataset.records]
    pending = deque(_missing_batches(requests, journal, size=plan.batch_size))
    requested = sum(map(len, pending))
    failed: dict[str, str] = {}
    open_batches: list[_OpenBatch] = []
    closed = ended = 0
    pause_s, last_change = MIN_PAUSE_S, time.monotonic()
    while pending or open_batches:
        while pending and len(open_batches) < plan.open_batches:
            open_batches.append(_submit(service, pending.popleft(), journal))
        for batch in tuple(open_batches):
            counts = service.batch(batch.batch_id).counts
            batch.ended = len(batch.requests) - counts.queued - counts.running  # erased notes count as ended
            if batch.ended == len(batch.requests):
                failed |= _collect(service, batch, journal, dataset=dataset)
                open_batches.remove(batch)
                closed += batch.ended
        previous, ended = ended, closed + sum(batch.ended for batch in open_batches)
        detail = f"{len(failed)} failed" if failed else ""
        progress(Step(STAGE, len(requests) - requested + ended, len(requests), detail))
        if ended > previous:
            pause_s, last_change = MIN_PAUSE_S, time.monotonic()
        else:
            pause_s = min(pause_s * 1.5, MAX_PAUSE_S)
            if time.monotonic() - last_change > STALLED_AFTER_S:
                raise UserError(
                    f"no note has ended for {STALLED_AFTER_S:g} s; check the worker's log, then run the same command "
                    "again to resume"
                )
        if open_batches:
            time.sleep(pause_s)
    rows = tuple(journal.rows[one.key] for one in requests if one.key in journal.rows)
    path = out / "notes.parquet"
    write_notes(path, rows)
    return NotesRun(rows, failed, requested, time.monotonic() - started, path)


def _writer_version(service: NoteService, strategy_id: Strategy) -> str:
    """The versions that a note depends on besides its request: prompt, priors and the model's weights."""
    available = {strategy.id: strategy for strategy in service.strategies()}
    if strategy_id not in available:
        raise UserError(
            f"the note service does not offer strategy {strategy_id}; choose one of {', '.join(available) or 'none'}"
        )
    strategy = available[strategy_id]
    if not strategy.uses_llm:
        return f"{strategy.prompt_version}\n"
    model = service.model()
    weights = model.sha256 or model.name  # a remote server reports only the model's name
    return f"{strategy.prompt_version}\n{service.priors().version}\n{weights}"


def _image_request(record: Record, plan: NotesPlan, *, writer: str) -> _ImageRequest:
    digest = hashlib.sha256(f"{plan.seed}:{record.image_id}".encode()).digest()
    request = NoteRequest(
        metadata=record.metadata,
        strategy=plan.strategy,
        include=plan.include,
        options=NoteOptions(seed=int.from_bytes(digest[:4]) % 2**31, on_unfaithful=plan.on_unfaithful),
    )
    body = request.model_dump_json(exclude={"include"}, exclude_none=True)
    content = f"{record.image_id}\n{writer}\n{body}\n{sorted(request.include)}"
    return _ImageRequest(record, request, hashlib.sha256(content.encode()).hexdigest())


def _missing_batches(
    requests: Sequence[_ImageRequest], journal: Journal, *, size: int
) -> list[Sequence[_ImageRequest]]:
    """The requests without a note, in batches whose boundaries do not depend on the journal."""
    batches = (requests[start : start + size] for start in range(0, len(requests), size))
    missing = ([one for one in batch if one.key not in journal.rows] for batch in batches)
    return [batch for batch in missing if batch]


def _submit(service: NoteService, requests: Sequence[_ImageRequest], journal: Journal) -> _OpenBatch:
    """Submit a batch. Its idempotency key depends on the content, so a resumed run finds a batch submitted before."""
    attempt = max(journal.failures.get(one.key, 0) for one in requests)
    content = "\n".join([str(attempt), *(one.key for one in requests)])
    key = hashlib.sha256(content.encode()).hexdigest()
    batch = service.submit_batch([one.request for one in requests], idempotency_key=key)
    return _OpenBatch(batch.id, requests)


def _collect(service: NoteService, batch: _OpenBatch, journal: Journal, *, dataset: LesionDataset) -> dict[str, str]:
    """Add the results of an ended batch to the journal and return its failures: image id -> reason."""
    jobs = {job.index: job for job in service.batch_notes(batch.batch_id)}
    rows, failed_keys, reasons = [], [], {}
    for index, one in enumerate(batch.requests):
        job = jobs.get(index)
        if job is not None and job.status == "finished" and job.notes:
            rows.append(row_of(one.record, job.notes[0], dataset=dataset, request=one.key))
        else:
            failed_keys.append(one.key)
            reasons[one.record.image_id] = _failure_reason(job)
    journal.add_rows(rows)
    journal.add_failures(failed_keys)
    return reasons


def _failure_reason(job: NoteJob | None) -> str:
    if job is None:
        return "the service no longer has the note"
    return (job.error.detail or job.error.title) if job.error else job.status
