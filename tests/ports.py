"""TCP ports for servers that tests start in processes of their own."""

import itertools
import os
import random
import socket

# Below the range from which systems take the ports of outgoing connections and of sockets that bind port 0, so that
# none of these can take a port between its choice here and the server's start.
FIRST, WORKERS, PER_WORKER = 20_000, 8, 1_200
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
# Starts at a random number, since another run of the tests may use the same range.
_numbers = itertools.count(random.randrange(PER_WORKER))


def free_port() -> int:
    """A port of loopback that is free, and that no other test of this run gets."""
    for number in _numbers:
        port = FIRST + WORKER * PER_WORKER + number % PER_WORKER
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("unreachable: the numbers never end")
