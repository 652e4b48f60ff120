"""The HTTP client: retries, timeouts, and helpful one-line errors."""

import io
import json
import tarfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dermnote_contracts.notes import ModelInfo, NoteRequest
from dermnote_contracts.problems import DermnoteError, FieldError, InvalidRequest, QueueFull
from dermnote_contracts.retrieval import ModelSummary
from dermnote_train.errors import UserError
from dermnote_train.remote.notegen import NoteService
from dermnote_train.remote.retrieval import RetrievalService
from dermnote_train.remote.shards import NewItem, pack_shard
from tests.ports import free_port
from tests.train.servers import DROPPED, SCRIPTED, SILENCE, Answer, ScriptedServer, problem, scripted_server

MODEL = Answer(body=SCRIPTED.model_dump_json().encode())
REQUEST = NoteRequest.model_validate({"metadata": {"diagnosis": "mel"}, "strategy": "M"})
JOB = {"id": "a1", "status": "queued", "created_at": "2026-01-01T00:00:00Z"}
FULL = QueueFull("20000 notes are waiting")


def one_line(error: BaseException) -> str:
    assert "\n" not in str(error)
    return str(error)


@pytest.fixture(autouse=True)
def _no_stray_proxy() -> Iterator[None]:
    """The client ignores proxy settings of the machine."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            environment.setenv(name, "http://127.0.0.1:9")
        yield


@pytest.mark.parametrize("busy", [Answer(429), Answer(503), problem(FULL), Answer(503, headers={"Retry-After": "0"})])
def test_a_busy_service_is_retried(busy: Answer) -> None:
    with scripted_server(busy, busy, MODEL) as server, NoteService(server.url) as service:
        assert service.model() == SCRIPTED

    assert [request.call for request in server.received] == ["GET /model"] * 3


def test_retry_after_is_respected() -> None:
    with scripted_server(problem(FULL, **{"Retry-After": "1"}), MODEL) as server, NoteService(server.url) as service:
        started = time.monotonic()
        service.model()

    assert time.monotonic() - started > 0.95
    assert len(server.received) == 2


def test_a_service_that_stays_busy_raises_its_own_error() -> None:
    with (
        scripted_server(problem(FULL)) as server,
        NoteService(server.url, patience_s=0.3) as service,
        pytest.raises(QueueFull, match="20000 notes are waiting"),
    ):
        service.model()

    assert len(server.received) > 1


def test_a_retry_after_beyond_the_patience_is_not_waited_for() -> None:
    with (
        scripted_server(problem(FULL, **{"Retry-After": "3600"})) as server,
        NoteService(server.url, patience_s=5) as service,
        pytest.raises(QueueFull) as raised,
    ):
        service.model()

    assert raised.value.retry_after_s == 3600
    assert len(server.received) == 1


@pytest.mark.parametrize(
    "broken", [DROPPED, Answer(body=b'{"name": ', missing=40)], ids=["no answer", "half an answer"]
)
def test_a_broken_connection_is_retried(broken: Answer) -> None:
    with scripted_server(broken, broken, MODEL) as server, NoteService(server.url) as service:
        assert service.model() == SCRIPTED

    assert len(server.received) == 3


def test_the_client_waits_for_a_service_that_is_starting() -> None:
    port = free_port()
    models: list[ModelInfo] = []

    def request_model() -> None:
        with NoteService(f"http://127.0.0.1:{port}", patience_s=60) as service:
            models.append(service.model())

    thread = threading.Thread(target=request_model)
    thread.start()
    thread.join(0.2)
    with scripted_server(MODEL, port=port):
        thread.join(60)

    assert models == [SCRIPTED]


def test_retries_keep_the_idempotency_key_and_two_requests_have_two() -> None:
    accepted = Answer(202, json.dumps(JOB).encode())
    with scripted_server(DROPPED, problem(FULL), accepted) as server, NoteService(server.url) as service:
        service.submit(REQUEST)
        service.submit(REQUEST)

    first, second, third, other = [request.headers["Idempotency-Key"] for request in server.received]
    assert first == second == third != other


def test_a_retried_batch_has_the_same_key_and_body() -> None:
    accepted = Answer(202, json.dumps({"id": "b", "total": 2, "counts": {"queued": 2}}).encode())
    with scripted_server(DROPPED, accepted) as server, NoteService(server.url) as service:
        assert service.submit_batch([REQUEST, REQUEST], idempotency_key="mine").total == 2

    assert [request.headers["Idempotency-Key"] for request in server.received] == ["mine", "mine"]
    assert server.received[0].body == server.received[1].body
    assert len(json.loads(server.received[0].body)["items"]) == 2


def subclasses(error_class: type[DermnoteError]) -> list[type[DermnoteError]]:
    """All error classes of the services below one class."""
    children = [child for child in error_class.__subclasses__() if child.__module__ == DermnoteError.__module__]
    return children + [below for child in children for below in subclasses(child)]


@pytest.mark.parametrize("error_class", subclasses(DermnoteError), ids=lambda error_class: error_class.code)
def test_every_error_is_raised_as_the_class_that_the_service_raised(error_class: type[DermnoteError]) -> None:
    with (
        scripted_server(problem(error_class("what and where"), **{"Retry-After": "3"})) as server,
        NoteService(server.url, patience_s=0) as service,
        pytest.raises(error_class) as raised,
    ):
        service.model()

    assert type(raised.value) is error_class
    assert raised.value.detail.removesuffix("; set NOTEGEN_API_KEY to a key of the note service") == "what and where"
    assert raised.value.retry_after_s == 3


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 500, 507])
def test_a_rejected_request_is_not_retried(status: int) -> None:
    rejection = Answer(status, InvalidRequest("no").problem().model_dump_json().encode())
    with (
        scripted_server(rejection, MODEL) as server,
        NoteService(server.url) as service,
        pytest.raises(InvalidRequest),
    ):
        service.model()

    assert len(server.received) == 1


def test_a_validation_error_keeps_its_fields() -> None:
    fields = [FieldError(field="metadata.age", message="too old", index=3, nearest=["120"])]
    with (
        scripted_server(problem(InvalidRequest("see errors", errors=fields))) as server,
        NoteService(server.url) as service,
        pytest.raises(InvalidRequest) as raised,
    ):
        service.submit_batch([REQUEST])

    assert raised.value.errors == fields


def test_an_unknown_error_code_keeps_its_detail() -> None:
    body = {"title": "New", "status": 418, "code": "not-known-yet", "detail": "no coffee here"}
    with (
        scripted_server(Answer(418, json.dumps(body).encode())) as server,
        NoteService(server.url) as service,
        pytest.raises(DermnoteError, match="no coffee here"),
    ):
        service.model()

    assert len(server.received) == 1


def test_a_silent_service_times_out_without_a_retry() -> None:
    with scripted_server(SILENCE) as server, NoteService(server.url) as calls, pytest.raises(UserError) as raised:
        calls.request("GET", "/model", timeout_s=0.2)

    assert server.url in one_line(raised.value)
    assert "did not respond to GET /model within 0.2 s" in str(raised.value)
    assert len(server.received) == 1


@pytest.mark.parametrize("method", [NoteService.model, NoteService.health, NoteService.require_ready])
def test_a_stopped_note_service_is_a_one_line_error_with_its_url(method: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with NoteService(url, patience_s=0) as service, pytest.raises(UserError) as raised:
        method(service)

    assert f"the note service at {url} cannot be reached" in one_line(raised.value)
    assert "make up" in str(raised.value)
    assert "NOTEGEN_URL" in str(raised.value)


def test_a_stopped_retrieval_service_names_its_own_setting() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with RetrievalService(url, patience_s=0) as service, pytest.raises(UserError) as raised:
        service.index_info()

    assert f"the retrieval service at {url} cannot be reached" in one_line(raised.value)
    assert "RETRIEVAL_URL" in str(raised.value)


@pytest.mark.parametrize("method", [NoteService.model, NoteService.health])
@pytest.mark.parametrize(
    "url", ["localhost:8001", "", "/notes", "ftp://127.0.0.1", "http://127.0.0.1:port", "http://[::1"]
)
def test_an_invalid_url_is_a_one_line_error_that_names_the_setting(url: str, method: Any) -> None:
    with pytest.raises(UserError) as raised, NoteService(url, patience_s=0) as service:
        method(service)

    assert "not a URL for the note service; set NOTEGEN_URL to http://host:port" in one_line(raised.value)


OTHER_PROGRAMS = {
    "a web page": Answer(200, b"<html>It works!</html>"),
    "a missing web page": Answer(404, b"<html>404</html>"),
    "another API": Answer(200, b'{"status": "UP"}'),
    "another API's error": Answer(400, b'{"error": "bad"}'),
    "a list": Answer(200, b"[]"),
    "a redirect": Answer(302, b"", {"Location": "http://127.0.0.1:9/"}),
    "invalid gzip": Answer(200, b"not compressed", {"Content-Encoding": "gzip"}),
    "a failing server": Answer(500, b"Internal Server Error"),
}


@pytest.mark.parametrize("name", OTHER_PROGRAMS)
def test_another_program_on_the_port_is_a_one_line_error(name: str) -> None:
    with (
        scripted_server(OTHER_PROGRAMS[name]) as server,
        NoteService(server.url, patience_s=0) as service,
        pytest.raises(UserError) as raised,
    ):
        service.model()

    assert server.url in one_line(raised.value)
    assert "note service" in str(raised.value)


@pytest.mark.parametrize("body", [b'{"a": 1}', b'[{"id": "Z"}]', b"[1]", b"no JSON"])
def test_a_list_of_something_else_is_a_one_line_error(body: bytes) -> None:
    with (
        scripted_server(Answer(200, body)) as server,
        NoteService(server.url) as service,
        pytest.raises(UserError) as raised,
    ):
        service.strategies()

    assert server.url in one_line(raised.value)


NOT_READY = Answer(503, b'{"status": "unavailable", "checks": {"redis": "ok", "worker": "none is alive"}}')


def test_a_service_that_is_not_ready_is_reported_without_waiting() -> None:
    with scripted_server(NOT_READY) as server, NoteService(server.url) as service:
        health = service.health()
        with pytest.raises(UserError) as raised:
            service.require_ready()

    assert (health.status, health.checks["worker"]) == ("unavailable", "none is alive")
    assert "is not ready (worker: none is alive)" in one_line(raised.value)
    assert "redis" not in str(raised.value)
    assert len(server.received) == 2


def test_health_survives_a_broken_connection() -> None:
    with scripted_server(DROPPED, NOT_READY) as server, NoteService(server.url) as service:
        assert service.health().checks == {"redis": "ok", "worker": "none is alive"}


@pytest.mark.parametrize(
    "other",
    [
        Answer(404, b"<html>404</html>"),
        Answer(503, b"Service Unavailable"),
        Answer(503, b'{"checks": {"db": {"status": "DOWN"}}}'),
        Answer(503, b'{"checks": [{"name": "db"}]}'),
    ],
    ids=["page", "plain text", "nested checks", "listed checks"],
)
def test_the_readiness_of_another_program_is_a_one_line_error(other: Answer) -> None:
    with scripted_server(other) as server, NoteService(server.url) as service, pytest.raises(UserError) as raised:
        service.require_ready()

    assert server.url in one_line(raised.value)


def test_notes_may_contain_unicode_line_separators() -> None:
    texts = ["one\u2028line", "one\x85line", "one\x0bline"]
    lines = [_finished(index, text) for index, text in enumerate(texts)]
    with scripted_server(Answer(200, "\n".join(lines).encode() + b"\n")) as server, NoteService(server.url) as service:
        jobs = list(service.batch_notes("b"))

    assert [job.notes[0].text for job in jobs] == texts


def _finished(index: int, text: str) -> str:
    note = {
        "text": text,
        "strategy": "M",
        "facts": [],
        "verification": {"faithful": True, "coverage": 1},
        "provenance": {"model": None, "model_sha256": None, "prompt_version": "1", "seed": 0, "attempts": 0}
        | {"source": "template"},
    }
    return json.dumps(JOB | {"status": "finished", "index": index, "notes": [note]}, ensure_ascii=False)


def _summary(**state: Any) -> dict[str, Any]:
    return {"name": "m", "model_id": "m-2", "aligned": True, "active": False, "reembedding": None} | state


def _models(*models: dict[str, Any]) -> Answer:
    return Answer(200, json.dumps(list(models)).encode())


def _wait(server: ScriptedServer, *, timeout_s: float = 60, progress: list[float] | None = None) -> ModelSummary:
    with RetrievalService(server.url) as service:
        on_progress = None if progress is None else progress.append
        return service.wait_active("m", model_id="m-2", timeout_s=timeout_s, on_progress=on_progress)


def test_wait_active_returns_once_the_new_weights_are_active() -> None:
    old = _summary(model_id="m-1", active=True, reembedding=0.0)
    progress: list[float] = []
    with scripted_server(_models(old), _models(_summary(reembedding=0.5)), _models(_summary(active=True))) as server:
        assert _wait(server, progress=progress) == ModelSummary.model_validate(_summary(active=True))

    assert progress == [0.0, 0.5]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (_models(), "does not list the model m"),
        (_models(_summary()), "could not activate the model m"),
        (_models(_summary(model_id="m-1", active=True)), "could not activate the model m"),
    ],
)
def test_wait_active_fails_at_once_for_a_model_that_cannot_become_active(answer: Answer, expected: str) -> None:
    with scripted_server(answer) as server, pytest.raises(UserError, match=expected) as raised:
        _wait(server)

    one_line(raised.value)


def test_wait_active_times_out_with_a_one_line_error() -> None:
    with scripted_server(_models(_summary(reembedding=0.1))) as server, pytest.raises(UserError) as raised:
        _wait(server, timeout_s=0.3)

    assert "did not activate m within 0.3 s" in one_line(raised.value)


def test_a_shard_contains_every_item_with_its_parts_in_order() -> None:
    items = [
        NewItem("a", b"jpeg bytes", "jpg", "ein Fleck, groß", {"age": 61}, "p1"),
        NewItem("b", None, "jpg", None, {}, None),
        NewItem("c" * 128, b"png bytes", "png", "", {}, "p2"),
    ]

    with tarfile.open(fileobj=io.BytesIO(pack_shard(items)), mode="r:") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]

    assert list(members) == [
        "a.jpg",
        "a.txt",
        "a.json",
        "b.json",
        f"{'c' * 128}.png",
        f"{'c' * 128}.txt",
        f"{'c' * 128}.json",
    ]
    assert members["a.jpg"] == b"jpeg bytes"
    assert members["a.txt"].decode() == "ein Fleck, groß"
    assert json.loads(members["a.json"]) == {"metadata": {"age": 61}, "group": "p1"}
    assert json.loads(members["b.json"]) == {"metadata": {}}
