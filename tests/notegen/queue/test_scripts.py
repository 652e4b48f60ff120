"""The Lua scripts touch only the keys that are passed in KEYS, and no script names a key itself."""

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
from redis import Redis

from dermnote_contracts.notes import Counts, NoteRequest
from dermnote_contracts.problems import InternalError
from dermnote_notegen.queue.records import BATCH, BATCH_NOTES, NoteStore, StartedNote, Submission

REQUEST = NoteRequest.model_validate({"metadata": {"diagnosis": "nv"}})
IDS = ["one", "two", "three"]
BATCH_ID = "batch"
RESTRICTED = "restricted"


class DeclaredKeysOnly(Redis):
    """A connection that runs each script as a user who may touch the script's KEYS and nothing else."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        if args[0] not in ("EVAL", "EVALSHA"):
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        keys = args[3 : 3 + int(args[2])]
        self.acl_setuser(RESTRICTED, enabled=True, nopass=True, reset=True, commands=["+@all"], keys=keys)
        settings = {**self.connection_pool.connection_kwargs, "username": RESTRICTED, "password": "any"}
        with Redis(**{name: settings[name] for name in ("host", "port", "db", "username", "password")}) as restricted:
            return restricted.execute_command(*args, **options)


@pytest.fixture
def strict_store(valkey_url: str, redis: Redis) -> Iterator[NoteStore]:
    with DeclaredKeysOnly.from_url(valkey_url) as connection:
        store = NoteStore(connection, note_ttl_s=60)
        with redis.pipeline() as pipe:
            store.add(pipe, Submission([REQUEST] * 3, IDS, BATCH_ID))
            store.add(pipe, Submission([REQUEST], ["alone"]))
            pipe.execute()
        yield store


def test_starting_and_ending_notes_touches_declared_keys_only(strict_store: NoteStore, redis: Redis) -> None:
    for note_id in ("one", "alone"):
        assert strict_store.start(note_id) == StartedNote(REQUEST, None)
        assert strict_store.fail(note_id, InternalError().problem())

    assert all(redis.ttl(key.format(BATCH_ID)) > 0 for key in (BATCH, BATCH_NOTES))


def test_counting_a_batch_touches_declared_keys_only(strict_store: NoteStore) -> None:
    strict_store.start("one")
    strict_store.cancel("two")
    strict_store.erase("two")

    batch = strict_store.batch(BATCH_ID)

    assert (batch.total, batch.counts) == (3, Counts(queued=1, running=1))


def test_no_script_names_a_key() -> None:
    scripts = [path for path in (files("dermnote_notegen.queue") / "lua").iterdir() if path.name.endswith(".lua")]

    assert len(scripts) == 3
    assert not [path.name for path in scripts if "notegen:" in path.read_text()]
