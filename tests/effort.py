"""How much the tests do: `make test` takes samples, `make test-all` (DERMNOTE_TESTS=all) does everything."""

import os

EVERYTHING = os.environ.get("DERMNOTE_TESTS") == "all"


def amount(sample: int, everything: int) -> int:
    """A number of examples, requests or repetitions."""
    return everything if EVERYTHING else sample
