"""Rate limits: units per key and minute in a moving window, counted here or in a Redis that processes share.

Wraps the library `limits`. Units that would exceed the limit are rejected together and not counted.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

from fastapi.concurrency import run_in_threadpool
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter

from dermnote_contracts.problems import TooManyRequests


class RateLimiter:
    """Counts units per name. `errors`: a context manager that translates the storage's exceptions."""

    def __init__(
        self,
        storage: MemoryStorage | RedisStorage,
        *,
        window_s: int = 60,
        errors: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._storage = storage
        self._limiter = MovingWindowRateLimiter(storage)
        self._window_s = window_s
        self._errors = errors

    @classmethod
    def in_memory(cls, *, window_s: int = 60) -> Self:
        """Count in this process."""
        return cls(MemoryStorage(), window_s=window_s)

    @classmethod
    def in_redis(
        cls,
        connection_pool: Any,
        *,
        prefix: str,
        window_s: int = 60,
        errors: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Self:
        """Count in Redis, under keys that begin with `prefix`."""
        storage = RedisStorage("redis://", connection_pool=connection_pool, key_prefix=prefix)
        return cls(storage, window_s=window_s, errors=errors)

    async def spend(self, name: str, *, limit: int, units: int = 1, whole: int = 1) -> None:
        """Call `take` without blocking the event loop while Redis answers."""
        if isinstance(self._storage, MemoryStorage):
            self.take(name, limit=limit, units=units, whole=whole)
        else:
            await run_in_threadpool(self.take, name, limit=limit, units=units, whole=whole)

    def take(self, name: str, *, limit: int, units: int = 1, whole: int = 1) -> None:
        """Count `units` for a name, or none of them if its `limit` per window would be exceeded.

        `whole`: the units of the whole request, of which `units` may be only a part. Raises TooManyRequests; its
        Retry-After is the time until `whole` units are free.
        """
        item = RateLimitItemPerSecond(limit, self._window_s)
        with self._errors():
            if not self._limiter.hit(item, name, cost=units):
                raise TooManyRequests(f"{limit} units per minute", retry_after_s=self._free_in_s(item, name, whole))

    def _free_in_s(self, item: RateLimitItem, name: str, whole: int) -> int:
        oldest, held = self._storage.get_moving_window(item.key_for(name), item.amount - whole + 1, item.get_expiry())
        return max(1, math.ceil(oldest + item.get_expiry() - time.time())) if held else 1
