"""One request id in the log lines of every process that a note passes: API, worker and engine."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.notegen.processes import NoteService

REQUEST_ID = "00112233445566778899aabbccddeeff"
BODY = {"metadata": {"age": 61, "sex": "female", "diagnosis": "melanoma"}, "strategy": "G"}


@pytest.fixture(params=["text", "json"])
def service(request: pytest.FixtureRequest, short_folder: Path) -> Iterator[NoteService]:
    folder = short_folder / f"logs-{request.param}"
    folder.mkdir(exist_ok=True)
    service = NoteService(folder, settings={"LOG_FORMAT": request.param, "NOTEGEN_WORKERS": "1"})
    try:
        service.start()
        yield service
    finally:
        service.stop()


def lines_of(log: str, request_id: str, *, as_json: bool) -> list[str]:
    """The loggers and messages of a request's lines."""
    lines = [line for line in log.splitlines() if request_id in line]
    if not as_json:
        assert all(f"[{request_id}]" in line for line in lines)
        return lines
    records = [json.loads(line) for line in lines]
    assert all(record["request_id"] == request_id for record in records)
    return [f"{record['logger']} {record['message']}" for record in records]


def test_a_note_has_one_request_id_in_api_worker_and_engine(service: NoteService) -> None:
    as_json = service.settings["LOG_FORMAT"] == "json"
    headers = {"Prefer": "wait=30", "X-Request-ID": REQUEST_ID}
    answer = httpx.post(f"{service.url}/notes", json=BODY, headers=headers, timeout=60)
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, REQUEST_ID)
    note_id = answer.json()["id"]
    batch = httpx.post(f"{service.url}/notes/batch", json={"items": [BODY]}, timeout=60)
    batch_id = batch.headers["x-request-id"]

    assert any("POST /notes" in line for line in lines_of(service.api.text(), REQUEST_ID, as_json=as_json))
    worker = lines_of(service.worker.text(), REQUEST_ID, as_json=as_json)
    assert any("worker.writer" in line and f"note {note_id} finished" in line for line in worker)
    assert any("engine.server" in line and "completion" in line for line in worker)
    assert batch_id not in {REQUEST_ID, ""}


def test_every_line_of_every_program_has_the_common_format(service: NoteService) -> None:
    httpx.post(f"{service.url}/notes", json=BODY, headers={"Prefer": "wait=30"}, timeout=60)

    for program in (service.api, service.worker):
        lines = program.text().splitlines()
        assert lines
        for line in lines:
            if service.settings["LOG_FORMAT"] == "json":
                assert {"time", "level", "logger", "request_id", "message"} <= set(json.loads(line))
            else:
                date, _time, level, _logger, request_id, *_ = line.split(maxsplit=5)
                assert (len(date), level in {"INFO", "WARNING"}) == (10, True), line
                assert request_id.startswith("["), line
                assert request_id.endswith("]"), line
