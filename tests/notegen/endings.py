"""How often each note ended, as Redis tells it: a note's record gets its time to live when it ends, and never else."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from redis import Redis

from dermnote_notegen.queue.records import NOTE

CHANNEL = "__keyevent@0__:expire"


@contextmanager
def counted(redis_url: str) -> Iterator[Callable[[], dict[str, int]]]:
    """From now on: a function that says how often each note has ended so far, by its id."""
    seen: Counter[str] = Counter()
    prefix = NOTE.format("")
    with Redis.from_url(redis_url) as redis, redis.pubsub() as events:
        redis.config_set("notify-keyspace-events", "Eg")
        events.subscribe(CHANNEL)

        def so_far() -> dict[str, int]:
            events.ping()  # its answer comes behind everything that was told before it
            while (event := events.get_message(timeout=10)) is not None and event["type"] != "pong":
                if event["type"] == "message" and (key := event["data"].decode()).startswith(prefix):
                    seen[key.removeprefix(prefix)] += 1
            return dict(seen)

        yield so_far
