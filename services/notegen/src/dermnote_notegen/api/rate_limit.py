"""What a key has used in its minute, counted in the Redis that all API processes share."""

from fastapi.concurrency import run_in_threadpool
from redis import Redis

from dermnote_http.auth import Spend
from dermnote_http.rate_limit import Allowance
from dermnote_notegen.api.jobs import queue_errors

PREFIX = "notegen:used"


def spend_in(redis: Redis) -> Spend:
    """Count in a Redis, off the event loop; QueueUnavailable when it does not answer."""
    allowance = Allowance.in_redis(redis.connection_pool, prefix=PREFIX)

    def take(name: str, *, limit: int, units: int, whole: int) -> None:
        with queue_errors():
            allowance.take(name, limit=limit, units=units, whole=whole)

    async def spend(name: str, *, limit: int, units: int, whole: int) -> None:
        await run_in_threadpool(take, name, limit=limit, units=units, whole=whole)

    return spend
