"""kill -9 of each process of the note service during a batch; and a job that can't be completed."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.notegen.processes import NoteService, wait_until

NOTES = 16
ITEMS = [{"metadata": {"age": 20 + age, "diagnosis": "nv"}, "strategy": "P2"} for age in range(NOTES)]


@pytest.fixture
def service(short_folder: Path) -> Iterator[NoteService]:
    folder = short_folder / "own"
    folder.mkdir()
    service = NoteService(folder)
    try:
        service.start()
        yield service
    finally:
        service.stop()
        shutil.rmtree(folder)


def kill_and_start(process: str) -> Callable[[NoteService], None]:
    def act(service: NoteService) -> None:
        getattr(service, process).kill()
        getattr(service, process).start()

    return act


def kill_engine(service: NoteService) -> None:
    """The worker program restarts it."""
    service.worker.kill_engine()


def kill_one_worker(service: NoteService) -> None:
    """Kill one worker; its job is requeued once its heartbeat is missing."""
    os.kill(service.worker.other_pids()[0], signal.SIGKILL)


@pytest.mark.parametrize(
    "act",
    [
        kill_and_start("worker"),
        kill_one_worker,
        kill_engine,
        kill_and_start("api"),
        kill_and_start("valkey"),
    ],
    ids=["worker-program", "one-worker", "engine", "api", "valkey"],
)
def test_every_note_of_a_batch_ends_once_whatever_is_killed(
    service: NoteService, act: Callable[[NoteService], None]
) -> None:
    batch = httpx.post(f"{service.url}/notes/batch", json={"items": ITEMS}).json()

    def finished() -> int:
        try:
            answer = httpx.get(f"{service.url}/batches/{batch['id']}")
        except httpx.TransportError:
            return 0
        return int(answer.json()["counts"]["finished"]) if answer.status_code == 200 else 0

    wait_until(lambda: finished() > 0, timeout_s=60, what="the first note has ended")

    act(service)

    wait_until(lambda: finished() == NOTES, timeout_s=90, what="the batch has ended")
    lines = httpx.get(f"{service.url}/batches/{batch['id']}/notes").text.splitlines()
    assert len(lines) == NOTES


def test_a_note_that_cannot_be_written_fails_with_a_reason(short_folder: Path) -> None:
    folder = short_folder / "poison"
    folder.mkdir()
    settings = {"NOTEGEN_ENGINE_WAIT_S": "1", "NOTEGEN_JOB_RETRIES": "2", "NOTEGEN_OWN_ENGINE": "0"}
    service = NoteService(folder, settings=settings)
    try:
        service.engine.start()
        service.start()
        service.engine.kill()
        job = httpx.post(f"{service.url}/notes", json=ITEMS[0]).json()

        def state() -> dict[str, object]:
            record: dict[str, object] = httpx.get(f"{service.url}/notes/{job['id']}").json()
            return record

        wait_until(lambda: state()["status"] == "failed", timeout_s=60, what="the note has failed")
        assert state()["error"]["code"] == "worker-gave-up"  # type: ignore[index]
    finally:
        service.stop()
        shutil.rmtree(folder)
