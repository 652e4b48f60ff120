"""CONTRIBUTING.md lists every file whose tests do less in `make test` than in `make test-all`."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
LESS = re.compile(r"^from tests\.effort import|\bmark\.slow\b", re.MULTILINE)


def test_every_reduced_test_is_listed() -> None:
    tests = (path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__))
    reduced = {str(path.relative_to(ROOT)) for path in tests if LESS.search(path.read_text())}

    listed = set(re.findall(r"\((tests/[\w/]+\.py)\)", (ROOT / "CONTRIBUTING.md").read_text()))

    assert reduced
    assert listed - {"tests/conftest.py", "tests/effort.py"} == reduced
