"""Counts how often each note ended, from Redis' events: a note's record gets its time to live only when it ends."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from redis import Redis

from dermnote_notegen.queue.records import NOTE

CHANNEL = "__keyevent@0__:expire"


@contextmanager
def counted(redis_url: str) -> Iterator[Callable[[], dict[str, int]]]:
    """Yield a function that returns how often each note has ended since then, by id."""
    counts: Counter[str] = Counter()
    prefix = NOTE.format("")
    with Redis.from_url(redis_url) as redis, redis.pubsub() as events:
        redis.config_set("notify-keyspace-events", "Eg")
        events.subscribe(CHANNEL)

        def so_far() -> dict[str, int]:
            events.ping()  # its answer comes after all earlier events
            while (event := events.get_message(timeout=10)) is not None and event["type"] != "pong":
                if event["type"] == "message" and (key := event["data"].decode()).startswith(prefix):
                    counts[key.removeprefix(prefix)] += 1
            return dict(counts)

        yield so_far
