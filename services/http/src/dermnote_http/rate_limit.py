"""How much a key may use in a minute: a moving window in this process, or in a Redis that several processes share.

The one door to the library `limits` (extra `asgi`). What is refused is not counted.
"""

import math
import time
from typing import Any, Self

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import MovingWindowRateLimiter

from dermnote_contracts.problems import TooManyRequests


class Allowance:
    """Counts units by name. With a Redis behind it every call is a round trip and may raise what Redis raises."""

    def __init__(self, storage: MemoryStorage | RedisStorage, *, window_s: int = 60) -> None:
        self._storage = storage
        self._limiter = MovingWindowRateLimiter(storage)
        self._window_s = window_s

    @classmethod
    def in_memory(cls, *, window_s: int = 60) -> Self:
        """Counted in this process alone."""
        return cls(MemoryStorage(), window_s=window_s)

    @classmethod
    def in_redis(cls, connection_pool: Any, *, prefix: str, window_s: int = 60) -> Self:
        """Counted in the Redis behind a connection pool, under keys that begin with `prefix`."""
        return cls(RedisStorage("redis://", connection_pool=connection_pool, key_prefix=prefix), window_s=window_s)

    def take(self, name: str, *, limit: int, units: int = 1, whole: int = 1) -> None:
        """Use `units` of the `limit` that a name has in a window, or none and raise TooManyRequests.

        `whole`: what the next try will need at once; Retry-After says when so much is free.
        """
        item = RateLimitItemPerSecond(limit, self._window_s)
        if not self._limiter.hit(item, name, cost=units):
            raise TooManyRequests(f"{limit} units a minute", retry_after_s=self._free_in_s(item, name, whole=whole))

    def _free_in_s(self, item: RateLimitItem, name: str, *, whole: int) -> int:
        in_the_way = item.amount - whole + 1
        oldest, held = self._storage.get_moving_window(item.key_for(name), in_the_way, item.get_expiry())
        return max(1, math.ceil(oldest + item.get_expiry() - time.time())) if held else 1
