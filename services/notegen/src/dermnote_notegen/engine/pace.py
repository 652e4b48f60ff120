"""How many threads decode a batch best just now. Values in, values out; the clock is the caller's.

llama.cpp's threads wait for each other some 500 times a token. On idle cores two are nearly twice as fast as one;
beside one other busy process they were 6 to 14 times slower than one, since whoever waits, waits for a thread that is
not running. So both are timed as work goes on, and the faster one works. One lucky batch proves nothing on a noisy
machine: who wins once is tried again at once, and takes over if it wins twice.
"""

from collections import defaultdict

# Share of the time that may go into trying what is not in use.
PROBE_SHARE = 0.05
# Weight of the newest batch in the mean of what is in use.
NEWEST = 0.3
# What is tried must be this much faster to take over.
BETTER = 0.9


class Pace:
    """Chooses among `threads`, half of them, and one. Batches are compared with others of about their size."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._others = tuple(dict.fromkeys((1, max(1, threads // 2), threads)))
        self._costs: dict[int, dict[int, float]] = defaultdict(dict)
        self._last_s: dict[int, float] = {}
        self._since_s = 0.0
        self._turn = 0
        self._winner: int | None = None

    def choose(self, tokens: int) -> int:
        """Threads for a batch of `tokens`."""
        others = [threads for threads in self._others if threads != self.threads]
        costs = self._costs[tokens.bit_length()]
        if not others or self.threads not in costs:
            return self.threads
        if self._winner is not None:
            return self._winner
        other = others[self._turn % len(others)]
        due = self._since_s * PROBE_SHARE >= self._last_s.get(other, 0.0)
        return other if due or self._better(costs.get(other), costs[self.threads]) else self.threads

    def observe(self, tokens: int, *, threads: int, seconds: float) -> None:
        """A batch of `tokens` took `seconds` with `threads`."""
        costs, cost = self._costs[tokens.bit_length()], seconds / tokens
        self._last_s[threads] = seconds
        if threads == self.threads:
            costs[threads] = NEWEST * cost + (1 - NEWEST) * costs.get(threads, cost)
            self._since_s += seconds
            return
        costs[threads] = cost
        self._since_s = 0.0
        self._turn += 1
        won = self._better(cost, costs.get(self.threads, 0.0))
        if won and self._winner == threads:
            self.threads = threads
        self._winner = threads if won and self.threads != threads else None

    @staticmethod
    def _better(cost: float | None, present: float) -> bool:
        return cost is not None and cost < BETTER * present
