"""The worker program: its supervisor, engine, maintenance and workers, and what happens when any of them exits."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
from redis import Redis
from rq import Queue, Retry

from dermnote_contracts.notes import NoteJob, NoteRequest
from dermnote_contracts.problems import EngineCrashed
from dermnote_notegen.engine.scripted import DEADLY
from dermnote_notegen.queue.records import NoteStore, Submission
from dermnote_notegen.queue.rq_queue import QUEUE_NAME, NoteQueue, NoteWorker
from dermnote_notegen.settings import Settings
from dermnote_notegen.worker.main import ENGINE
from dermnote_notegen.worker.supervisor import (
    FIRST_DELAY_S,
    MAX_DELAY_S,
    STABLE_AFTER_S,
    Backoff,
    describe_exit,
)
from tests.notegen.endings import counted
from tests.notegen.processes import NoteService, children, is_alive, wait_until

Serve = Callable[..., AbstractContextManager[NoteService]]


@pytest.fixture
def serve(short_folder: Path) -> Serve:
    """`with serve(NAME="value") as service` runs a separate service."""

    @contextmanager
    def start(**settings: str) -> Iterator[NoteService]:
        folder = short_folder / "pool"
        folder.mkdir()
        service = NoteService(folder, settings={f"NOTEGEN_{name}": value for name, value in settings.items()})
        try:
            service.start()
            yield service
        finally:
            service.stop()
            shutil.rmtree(folder)

    return start


def submit(service: NoteService, notes: int) -> str:
    """Queue a batch; returns its id."""
    return submit_ages(service, [20 + note % 70 for note in range(notes)])


def submit_ages(service: NoteService, ages: Sequence[float]) -> str:
    """Queue a batch with one patient per age; returns its id."""
    items = [{"metadata": {"age": age, "diagnosis": "nv"}, "strategy": "P2"} for age in ages]
    answer = httpx.post(f"{service.url}/notes/batch", json={"items": items})
    return str(answer.json()["id"])


def ended_notes(service: NoteService, batch_id: str) -> list[NoteJob]:
    """The batch's ended notes in order."""
    lines = httpx.get(f"{service.url}/batches/{batch_id}/notes").text.splitlines()
    return [NoteJob.model_validate_json(line) for line in lines]


def counts(service: NoteService, batch_id: str) -> dict[str, int]:
    counts: dict[str, int] = httpx.get(f"{service.url}/batches/{batch_id}").json()["counts"]
    return counts


def wait_finished(service: NoteService, batch_id: str, notes: int) -> None:
    wait_until(lambda: counts(service, batch_id)["finished"] == notes, timeout_s=120, what="the batch has ended")


@contextmanager
def frozen_engine(service: NoteService) -> Iterator[None]:
    """Suspend the engine, so that it does not answer."""
    pid = service.worker.engine_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_the_restart_delay_doubles_with_each_early_exit_up_to_a_limit() -> None:
    backoff, delays = Backoff(), []
    for _ in range(40):
        backoff = backoff.after_exit(uptime_s=1)
        delays.append(backoff.delay_s)

    assert delays[:3] == [0.2, 0.4, 0.8]
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY_S


ORPHANED = """
import os, signal, sys, time
from dermnote_notegen.worker import supervisor
sys.platform = sys.argv[1]
process = supervisor.Process("child", lambda: time.sleep(120))
process.start()
print(process.pid, flush=True)
time.sleep(120)
"""


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_child_ends_with_its_killed_parent(platform: str) -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHANED, platform], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)

        parent.kill()

    wait_until(lambda: not is_alive(child), timeout_s=30, what="the child has ended")


def test_an_engine_without_its_supervisor_ends(short_folder: Path) -> None:
    environment = {"NOTEGEN_MODEL": "scripted", "NOTEGEN_ENGINE_SOCKET": str(short_folder / "orphaned.sock")}
    nobody = os.getppid()  # not the engine's parent

    ended = subprocess.run([sys.executable, "-c", ENGINE.format(nobody)], env=environment, timeout=60, check=False)

    assert ended.returncode == -signal.SIGKILL


def test_a_long_uptime_resets_the_restart_delay() -> None:
    assert Backoff(early_exits=9).after_exit(uptime_s=STABLE_AFTER_S).delay_s == FIRST_DELAY_S


def test_an_exit_is_described_by_its_code_or_signal() -> None:
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-9) == "signal SIGKILL"


def test_the_default_is_more_workers_than_slots_and_both_are_settings() -> None:
    assert Settings(slots=16).worker_count == 20
    assert Settings(slots=16, workers=3).worker_count == 3


@pytest.mark.parametrize(("cores", "slots"), [(1, 12), (2, 24), (3, 36), (4, 48), (64, 48)])
def test_the_default_number_of_slots_follows_the_usable_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, slots: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)

    assert Settings().engine_slots == slots


def test_an_external_engine_is_not_started() -> None:
    assert Settings().starts_engine
    assert not Settings(engine_url="http://127.0.0.1:9").starts_engine
    assert not Settings(own_engine=False).starts_engine


def test_workers_are_counted_by_fresh_heartbeats(redis: Redis) -> None:
    queue = NoteQueue(redis, job_timeout_s=60, retries=1)
    worker = NoteWorker(redis, orphan_after_s=5, on_failed=print)
    assert queue.workers_alive() == 0

    worker.register_birth()  # type: ignore[no-untyped-call]
    assert queue.workers_alive() == 1

    redis.hset(worker.key, "last_heartbeat", "2020-01-01T00:00:00.000000Z")
    assert queue.workers_alive() == 0


def test_the_maintenance_lock_of_a_killed_process_expires_before_the_next_turn(redis: Redis) -> None:
    killed = NoteWorker(redis, orphan_after_s=5, on_failed=print, maintenance_interval_s=7)

    killed.clean_registries()

    lock = Queue(QUEUE_NAME, connection=redis).registry_cleaning_key
    assert 0 < redis.pttl(lock) < 7000


def test_a_job_that_was_dequeued_but_never_started_is_requeued(redis: Redis) -> None:
    queue = NoteQueue(redis, job_timeout_s=60, retries=1)
    with redis.pipeline() as pipe:
        queue.put(pipe, ["abc"])
        pipe.execute()
    rq_queue = Queue(QUEUE_NAME, connection=redis)
    redis.lmove(rq_queue.key, rq_queue.intermediate_queue_key)
    maintenance = NoteWorker(redis, orphan_after_s=0, on_failed=print, maintenance_interval_s=1)

    def queued_again() -> bool:
        maintenance.clean_registries()
        return queue.waiting() == 1

    assert queue.waiting() == 0
    wait_until(queued_again, timeout_s=30, what="the job is queued again")


def test_killed_processes_are_restarted_and_logged(serve: Serve) -> None:
    with serve() as service:
        before = service.worker.other_pids()
        assert len(before) == 5  # four workers and the maintenance process
        for pid in before:
            os.kill(pid, signal.SIGKILL)

        def replaced() -> bool:
            now = service.worker.other_pids()
            return len(now) == len(before) and not set(now) & set(before)

        wait_until(replaced, timeout_s=30, what="all processes were restarted")
        wait_finished(service, submit(service, 8), 8)
        assert service.worker.text().count("SIGKILL") == 5


def test_no_process_outlives_a_killed_supervisor(serve: Serve) -> None:
    with serve() as service:
        processes = children(service.worker.pid)
        assert len(processes) == 6

        service.worker.kill()

        wait_until(lambda: not any(map(is_alive, processes)), timeout_s=30, what="all processes have exited")


def test_current_notes_are_finished_before_the_program_exits(serve: Serve) -> None:
    with serve() as service:
        batch_id = submit(service, 60)
        wait_until(lambda: counts(service, batch_id)["finished"] > 0, timeout_s=60, what="a note has ended")
        processes = children(service.worker.pid)

        service.worker.stop()

        assert service.worker.running is not None
        assert service.worker.running.returncode == 0
        assert not any(map(is_alive, processes))
        left = counts(service, batch_id)
        assert left["running"] == 0
        assert left["queued"] > 0
        service.worker.start()
        wait_finished(service, batch_id, 60)


def test_a_second_signal_stops_the_program_at_once(serve: Serve) -> None:
    with serve() as service:
        processes = children(service.worker.pid)
        with frozen_engine(service):
            batch_id = submit(service, 4)
            wait_until(lambda: counts(service, batch_id)["running"] == 4, timeout_s=60, what="notes are being written")
            program = service.worker.running
            assert program is not None
            program.terminate()
            wait_until(
                lambda: "stopping after the current notes" in service.worker.text(), timeout_s=30, what="it is stopping"
            )
            assert program.poll() is None

            program.terminate()

            assert program.wait(timeout=30) == 1
            wait_until(lambda: not any(map(is_alive, processes)), timeout_s=30, what="all processes have exited")


def test_every_note_of_a_large_batch_ends_once_though_the_engine_is_killed(serve: Serve) -> None:
    with serve(WORKERS="12") as service, counted(service.redis_url) as endings:
        batch_id = submit(service, 200)
        wait_until(
            lambda: counts(service, batch_id)["finished"] > 20, timeout_s=60, what="part of the batch has finished"
        )
        assert counts(service, batch_id)["finished"] < 200

        service.worker.kill_engine()

        wait_finished(service, batch_id, 200)
        jobs = ended_notes(service, batch_id)
        assert endings() == {job.id: 1 for job in jobs}
        ages = [20 + number % 70 for number in range(200)]
        for age, job in zip(ages, jobs, strict=True):
            (note,) = job.notes
            assert f"{age}-year-old" in note.text
        assert "engine" in service.worker.text().partition("SIGKILL")[0].splitlines()[-1]


def test_a_note_whose_job_runs_twice_at_the_same_time_ends_once(serve: Serve) -> None:
    with serve() as service, Redis.from_url(service.redis_url) as redis, counted(service.redis_url) as endings:
        queue = NoteQueue(redis, job_timeout_s=60, retries=1)
        note_ids = [f"note-{number}" for number in range(12)]
        requests = [NoteRequest.model_validate({"metadata": {"age": 40, "diagnosis": "nv"}})] * len(note_ids)
        with redis.pipeline() as pipe:
            NoteStore(redis, note_ttl_s=60).add(pipe, Submission(requests, note_ids))
            for note_id in note_ids:
                for _ in range(2):
                    queue.put(pipe, [note_id])
            pipe.execute()

        wait_until(lambda: queue.waiting() == 0 and len(endings()) == 12, timeout_s=60, what="all have ended")
        service.worker.stop()  # after its current jobs

        assert endings() == dict.fromkeys(note_ids, 1)


def test_a_request_that_crashes_the_engine_fails_only_its_own_note(serve: Serve) -> None:
    """Other notes that were lost with the engine are retried, one request at a time, and finish."""
    with serve(WORKERS="8") as service, counted(service.redis_url) as endings:
        deadly = float(DEADLY.partition("-")[0])
        batch_id = submit_ages(service, [20, 21, deadly, *range(22, 59)])

        wait_until(lambda: sum(endings().values()) >= 40, timeout_s=150, what="the batch has ended")

        jobs = ended_notes(service, batch_id)
        assert endings() == {job.id: 1 for job in jobs}
        (failed,) = (job for job in jobs if job.status != "finished")
        assert failed.index == 2
        assert failed.error is not None
        assert failed.error.code == EngineCrashed.code
        wait_until(
            lambda: service.worker.text().count("engine ended with exit code 1") == 4,
            timeout_s=30,
            what="the engine was started again each of the four times",
        )


def test_a_job_that_kills_every_worker_fails_only_its_own_note(serve: Serve) -> None:
    with serve() as service, Redis.from_url(service.redis_url) as redis:
        request = NoteRequest.model_validate({"metadata": {"diagnosis": "nv"}})
        with redis.pipeline() as pipe:
            NoteStore(redis, note_ttl_s=60).add(pipe, Submission([request], ["poison"]))
            pipe.execute()

        Queue(QUEUE_NAME, connection=redis, serializer="json").enqueue(
            "signal.raise_signal", int(signal.SIGKILL), job_id="poison", retry=Retry(max=1)
        )
        batch_id = submit(service, 8)

        wait_finished(service, batch_id, 8)
        wait_until(
            lambda: httpx.get(f"{service.url}/notes/poison").json()["status"] == "failed",
            timeout_s=120,
            what="the poison job has failed",
        )
        assert httpx.get(f"{service.url}/notes/poison").json()["error"]["code"] == "worker-gave-up"
        assert service.worker.text().count("SIGKILL") == 2


def test_a_long_job_is_not_treated_as_an_orphan(serve: Serve) -> None:
    with serve() as service, Redis.from_url(service.redis_url) as redis:

        def expiries() -> list[float]:
            return [score for _, score in redis.zrange("rq:wip:notes", 0, -1, withscores=True)]

        with frozen_engine(service):
            batch_id = submit(service, 1)
            wait_until(expiries, timeout_s=30, what="the job runs")
            first = expiries()

            wait_until(lambda: expiries() > first, timeout_s=60, what="a heartbeat has extended the job's expiry")

            assert len(expiries()) == 1
        wait_finished(service, batch_id, 1)


def test_a_job_that_times_out_fails_and_its_worker_is_replaced(serve: Serve) -> None:
    with serve(JOB_TIMEOUT_S="5", JOB_RETRIES="1", WORKERS="1") as service:
        with frozen_engine(service):
            batch_id = submit(service, 1)
            wait_until(lambda: counts(service, batch_id)["failed"] == 1, timeout_s=90, what="the note has failed")

        assert service.worker.text().count("timed out") == 2
        wait_finished(service, submit(service, 4), 4)


def test_an_engine_that_cannot_start_ends_the_program_with_the_reason(short_folder: Path) -> None:
    folder = short_folder / "wrong"
    folder.mkdir()
    service = NoteService(folder, settings={"NOTEGEN_MODEL": "/nowhere/model.gguf"})

    with pytest.raises(AssertionError, match="no such file"):
        service.worker.start()

    assert service.worker.running is not None
    assert service.worker.running.returncode == 2
