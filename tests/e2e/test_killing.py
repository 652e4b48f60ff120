"""kill -9 of any process of the stack during a batch loses no note."""

import os
import signal
import time
from datetime import UTC, datetime

import pytest

from dermnote_contracts.notes import NoteRequest
from dermnote_train.remote.notegen import NoteService
from tests.e2e.conftest import Stack, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.gguf]
# Far more than the engine has slots, so that on any machine most are unwritten when the first one has finished.
NOTES = 64
POLL_S = 0.02


def requests(salt: int) -> list[NoteRequest]:
    """Distinct requests for notes written by the model."""
    return [
        NoteRequest.model_validate(
            {
                "metadata": {"age": 20 + index % 70, "sex": "female", "site": "back", "diagnosis": "nevus"},
                "strategy": "G",
                "options": {"seed": salt * 1000 + index},
            }
        )
        for index in range(NOTES)
    ]


def kill_in_the_middle(service: NoteService, batch_id: str, pid: int) -> datetime:
    """kill -9 once a note has finished and most have not; returns the time."""
    ends = time.monotonic() + 120
    while (ended := service.batch(batch_id).ended) == 0:
        assert time.monotonic() < ends, "not in 120 s: the first note has ended"
        time.sleep(POLL_S)
    killed_at = datetime.now(UTC)
    os.kill(pid, signal.SIGKILL)
    assert ended < NOTES
    return killed_at


def assert_all_arrive(service: NoteService, batch_id: str, *, killed_at: datetime) -> None:
    """Check that each note arrives once, in order, faithful, and some of them after the kill."""
    wait_until(lambda: service.batch(batch_id).ended == NOTES, timeout_s=300, what="the batch has ended")
    notes = list(service.batch_notes(batch_id))
    assert [note.index for note in notes] == list(range(NOTES))
    assert {note.status for note in notes} == {"finished"}
    assert [note.notes[0].verification.faithful for note in notes] == [True] * NOTES
    assert any(note.finished_at is not None and note.finished_at > killed_at for note in notes)


@pytest.mark.parametrize("process", ["notegen-worker-1", "engine", "notegen-api-1", "valkey-1", "retrieval-1"])
def test_no_note_is_lost_when_a_process_is_killed(stack: Stack, process: str) -> None:
    old_pid = stack.pid(process)
    with NoteService(stack.environment["NOTEGEN_URL"]) as service:
        batch = service.submit_batch(requests(salt=len(process)))

        killed_at = kill_in_the_middle(service, batch.id, old_pid)

        stack.wait_restarted(process, old_pid)
        assert_all_arrive(service, batch.id, killed_at=killed_at)


def test_no_note_is_lost_when_supervisord_is_killed_and_the_stack_restarted(stack: Stack) -> None:
    pid = int((stack.home / "supervisord.pid").read_text())
    with NoteService(stack.environment["NOTEGEN_URL"]) as service:
        batch = service.submit_batch(requests(salt=99))

        killed_at = kill_in_the_middle(service, batch.id, pid)
        again = stack.run("up")

        assert again.returncode == 0, again.stdout + again.stderr
        assert_all_arrive(service, batch.id, killed_at=killed_at)
