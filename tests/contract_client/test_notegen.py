"""Every method of the note client against the real service: typed results, and errors of the same class."""

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dermnote_contracts.notes import ALL_TOPICS, MAX_BATCH, Batch, NoteJob, NoteRequest
from dermnote_contracts.problems import (
    DermnoteError,
    EngineUnavailable,
    IdempotencyKeyReused,
    InvalidRequest,
    NoFacts,
    QueueFull,
    QueueUnavailable,
    StrategyNeedsDiagnosis,
    UnknownBatch,
    UnknownNote,
)
from dermnote_notegen.api.app import create_app
from dermnote_notegen.settings import Settings
from dermnote_train.errors import UserError
from dermnote_train.remote.notegen import NoteService
from tests.notegen.processes import NoteService as Processes
from tests.notegen.processes import wait_until
from tests.ports import free_port
from tests.train.servers import served


def request(strategy: str = "M", *, metadata: dict[str, Any] | None = None, **more: Any) -> NoteRequest:
    facts = {"age": 61, "sex": "F", "site": "ARM", "diagnosis": "mel"} if metadata is None else metadata
    return NoteRequest.model_validate({"metadata": facts, "strategy": strategy} | more)


def ended(notes: NoteService, batch: Batch) -> Batch:
    """A batch after all of its notes have ended."""
    wait_until(lambda: notes.batch(batch.id).ended == batch.total, timeout_s=120, what="the batch has ended")
    return notes.batch(batch.id)


@pytest.fixture
def idle(processes: Processes) -> Iterator[NoteService]:
    """A client of a note service without workers, with its own database and a queue of at most three notes."""
    url = processes.redis_url.removesuffix("/0") + "/1"
    with Redis.from_url(url) as redis:
        redis.flushdb()
        app = create_app(Settings(max_waiting=3), redis=redis)
        with served(app) as address, NoteService(address, patience_s=0.2) as client:
            yield client


@pytest.fixture
def cut_off() -> Iterator[NoteService]:
    """A client of a note service whose Redis is unreachable."""
    unreachable = Redis(port=free_port(), retry=Retry(NoBackoff(), 0))
    with served(create_app(Settings(), redis=unreachable)) as url, NoteService(url, patience_s=0.2) as client:
        yield client


def test_waiting_for_a_note_returns_it_with_verification_and_provenance(notes: NoteService) -> None:
    job = notes.submit(request("P2", options={"seed": 7}), wait_s=60)

    assert (job.status, job.error, job.index) == ("finished", None, None)
    (note,) = job.notes
    assert note.verification.faithful
    assert {fact.field for fact in note.facts} == {"age", "sex", "site", "diagnosis"}
    assert all(note.text[fact.start : fact.end] for fact in note.facts)
    assert (note.provenance.seed, note.provenance.synthetic) == (7, True)
    assert (note.strategy, note.provenance.model) == ("P2", "scripted")
    assert notes.get(job.id) == job


def test_without_waiting_a_note_is_a_job_that_ends_later(notes: NoteService) -> None:
    job = notes.submit(request())

    assert job.status in ("queued", "running", "finished")
    wait_until(lambda: notes.get(job.id).status == "finished", timeout_s=60, what="the note has ended")
    assert "melanoma" in notes.get(job.id).notes[0].text.lower()


def test_all_options_of_a_request_are_applied(notes: NoteService) -> None:
    options = {"seed": 3, "temperature": 0.5, "max_words": 60, "n": 2, "on_unfaithful": "fallback"}
    options["deterministic"] = True
    with_options = request("P2", include=["diagnosis", "site"], options=options)

    job = notes.submit(with_options, wait_s=60)

    assert len(job.notes) == 2
    for note in job.notes:
        assert {fact.field for fact in note.facts} == {"diagnosis", "site"}
        assert note.provenance.seed == 3
    assert job.notes[0].provenance.attempts == 1
    assert job.notes[0].text != job.notes[1].text


def test_an_idempotency_key_gives_one_note_and_rejects_another_body(notes: NoteService) -> None:
    first = notes.submit(request(), idempotency_key="one-key")

    assert notes.submit(request(), idempotency_key="one-key").id == first.id
    with pytest.raises(IdempotencyKeyReused):
        notes.submit(request(metadata={"diagnosis": "nv"}), idempotency_key="one-key")
    assert notes.submit(request()).id != notes.submit(request()).id


def test_equal_requests_have_the_same_body_whatever_the_order_of_topics(notes: NoteService) -> None:
    first = notes.submit(request(include=sorted(ALL_TOPICS)), idempotency_key="topics")

    assert notes.submit(request(include=sorted(ALL_TOPICS, reverse=True)), idempotency_key="topics").id == first.id


def test_a_batch_is_counted_and_its_notes_are_returned_in_order(notes: NoteService) -> None:
    ages = list(range(20, 32))
    batch = notes.submit_batch([request("P2", metadata={"age": age, "diagnosis": "nv"}) for age in ages])
    assert batch.total == len(ages)

    done = ended(notes, batch)

    assert (done.id, done.counts.finished) == (batch.id, len(ages))
    jobs = list(notes.batch_notes(batch.id))
    assert [job.index for job in jobs] == list(range(len(ages)))
    for age, job in zip(ages, jobs, strict=True):
        assert isinstance(job, NoteJob)
        assert str(age) in job.notes[0].text


def test_an_idempotency_key_gives_one_batch(notes: NoteService) -> None:
    items = [request(metadata={"diagnosis": "nv"}), request(metadata={"diagnosis": "bcc"})]
    first = notes.submit_batch(items, idempotency_key="a-batch")

    assert notes.submit_batch(items, idempotency_key="a-batch").id == first.id
    with pytest.raises(IdempotencyKeyReused):
        notes.submit_batch(items[::-1], idempotency_key="a-batch")


def test_the_largest_batch_is_accepted(notes: NoteService) -> None:
    batch = notes.submit_batch([request()] * MAX_BATCH)

    assert notes.cancel_batch(batch.id).total == MAX_BATCH


def test_a_note_is_cancelled_then_erased_then_unknown(idle: NoteService) -> None:
    job = idle.submit(request())

    cancelled = idle.cancel(job.id)

    assert cancelled is not None
    assert (cancelled.id, cancelled.status) == (job.id, "cancelled")
    assert idle.get(job.id).status == "cancelled"
    assert idle.cancel(job.id) is None
    for method in (idle.get, idle.cancel):
        with pytest.raises(UnknownNote):
            method(job.id)


def test_a_batch_is_cancelled(idle: NoteService) -> None:
    batch = idle.submit_batch([request()] * 3)
    assert list(idle.batch_notes(batch.id)) == []

    cancelled = idle.cancel_batch(batch.id)

    assert (cancelled.counts.cancelled, cancelled.ended) == (3, 3)
    assert [job.status for job in idle.batch_notes(batch.id)] == ["cancelled"] * 3


@pytest.mark.parametrize("method", [NoteService.batch, NoteService.batch_notes, NoteService.cancel_batch])
def test_a_missing_batch_is_unknown(idle: NoteService, method: Any) -> None:
    with pytest.raises(UnknownBatch):
        method(idle, "missing")


@pytest.mark.parametrize(
    ("invalid", "error"),
    [
        (request("P2", metadata={}), NoFacts),
        (request("P2", metadata={"age": 50}, include=["site"]), NoFacts),
        (request("M", metadata={"age": 50}), StrategyNeedsDiagnosis),
    ],
)
def test_an_invalid_request_raises_the_same_error_as_in_the_service(
    idle: NoteService, invalid: NoteRequest, error: type[DermnoteError]
) -> None:
    with pytest.raises(InvalidRequest) as raised:
        idle.submit(invalid)

    assert type(raised.value) is error
    assert raised.value.detail


def test_a_rejected_batch_names_every_invalid_item_and_queues_nothing(idle: NoteService) -> None:
    items = [request(), request(metadata={}), request("P2", metadata={"age": 50}, include=["site"])]

    with pytest.raises(InvalidRequest) as raised:
        idle.submit_batch(items)

    assert [(error.index, error.field) for error in raised.value.errors] == [(1, "metadata"), (2, "metadata")]
    assert idle.submit_batch([request()] * 3).counts.queued == 3  # the whole queue was free


def test_an_invalid_idempotency_key_is_rejected_with_a_reason(idle: NoteService) -> None:
    with pytest.raises(InvalidRequest, match="Idempotency-Key"):
        idle.submit(request(), idempotency_key="k" * 256)


def test_a_full_queue_is_an_error_with_a_retry_delay(idle: NoteService) -> None:
    idle.submit_batch([request()] * 3)

    with pytest.raises(QueueFull) as raised:
        idle.submit(request())

    assert raised.value.retry_after_s == 60
    assert "the limit is 3" in raised.value.detail


def test_without_redis_every_call_raises_queue_unavailable(cut_off: NoteService) -> None:
    calls = [
        lambda: cut_off.submit(request()),
        lambda: cut_off.submit_batch([request()]),
        lambda: cut_off.get("a"),
        lambda: cut_off.batch("a"),
        lambda: cut_off.cancel("a"),
        cut_off.model,
    ]
    for call in calls:
        with pytest.raises(QueueUnavailable) as raised:
            call()
        assert raised.value.retry_after_s == 5


def test_readiness_reports_each_missing_part(notes: NoteService, idle: NoteService, cut_off: NoteService) -> None:
    notes.require_ready()
    assert notes.health().checks == {"redis": "ok", "worker": "ok", "model": "ok"}

    assert idle.health().checks == {"redis": "ok", "worker": "none is alive", "model": "not loaded"}
    with pytest.raises(UserError, match=r"not ready.*worker: none is alive; model: not loaded"):
        idle.require_ready()
    with pytest.raises(UserError, match="redis: does not answer"):
        cut_off.require_ready()


def test_strategies_and_model_are_typed(notes: NoteService, idle: NoteService) -> None:
    available = {strategy.id: strategy for strategy in notes.strategies()}

    assert set(available) == {"M", "P1", "P2", "P3", "G"}
    priors = notes.priors()
    assert {"melanoma", "nevus"} <= set(priors.diagnoses)
    assert priors.version
    assert (available["M"].uses_llm, available["P2"].uses_llm) == (False, True)
    assert all(strategy.prompt_version and strategy.states for strategy in available.values())
    model = notes.model()
    assert (model.name, model.engine) == ("scripted", "scripted")
    assert model.context_tokens > 0
    with pytest.raises(EngineUnavailable, match="no worker"):
        idle.model()
