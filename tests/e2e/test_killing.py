"""kill -9 of any one process of the stack during a batch loses no note of the batch."""

import os
import signal

import pytest

from dermnote_contracts.notes import NoteRequest
from dermnote_train.remote.notegen import NoteService
from tests.e2e.conftest import Stack, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.gguf]
NOTES = 12


def requests(salt: int) -> list[NoteRequest]:
    """Distinct requests that the model has to write."""
    return [
        NoteRequest.model_validate(
            {
                "metadata": {"age": 30 + index, "sex": "female", "site": "back", "diagnosis": "nevus"},
                "strategy": "G",
                "options": {"seed": salt * 1000 + index},
            }
        )
        for index in range(NOTES)
    ]


def started(service: NoteService, batch_id: str) -> bool:
    """Some notes have ended and some have not."""
    return 0 < service.batch(batch_id).ended < NOTES


@pytest.mark.parametrize("process", ["notegen-worker-1", "engine", "notegen-api-1", "valkey-1", "retrieval-1"])
def test_no_note_is_lost_when_a_process_is_killed(stack: Stack, process: str) -> None:
    with NoteService(stack.environment["NOTEGEN_URL"]) as service:
        batch = service.submit_batch(requests(salt=len(process)))
        wait_until(lambda: service.batch(batch.id).ended > 0, timeout_s=120, what="the first note has ended")

        old_pid = stack.kill(process)
        stack.wait_restarted(process, old_pid)

        wait_until(lambda: service.batch(batch.id).ended == NOTES, timeout_s=180, what="the batch has ended")
        notes = list(service.batch_notes(batch.id))
    assert [note.index for note in notes] == list(range(NOTES))
    assert {note.status for note in notes} == {"finished"}
    assert [note.notes[0].verification.faithful for note in notes] == [True] * NOTES


def test_no_note_is_lost_when_supervisord_is_killed_and_the_stack_is_started_again(stack: Stack) -> None:
    with NoteService(stack.environment["NOTEGEN_URL"]) as service:
        batch = service.submit_batch(requests(salt=99))
        pid = int((stack.home / "supervisord.pid").read_text())
        os.kill(pid, signal.SIGKILL)

        again = stack.run("up")

        assert again.returncode == 0, again.stdout + again.stderr
        wait_until(lambda: service.batch(batch.id).ended == NOTES, timeout_s=180, what="the batch has ended")
        assert service.batch(batch.id).counts.finished == NOTES
