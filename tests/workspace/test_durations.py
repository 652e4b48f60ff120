"""tools/durations.py reads a JUnit report and keeps one row per run, also when folders come and go."""

import csv
import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("durations", ROOT / "tools" / "durations.py")
assert SPEC is not None
assert SPEC.loader is not None
durations = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(durations)
REPORT = """<?xml version="1.0"?>
<testsuites><testsuite name="test, 2 workers" tests="4" time="20.4" timestamp="2026-03-01T10:00:00.5+00:00">
<testcase classname="tests.notegen.worker.test_main" name="a" time="3.5"/>
<testcase classname="tests.notegen.worker.test_main.TestClass" name="b" time="1.2"/>
<testcase classname="tests.e2e.test_stack" name="c" time="9.0"/>
<testcase classname="tests.retrieval.api.deep.test_items" name="d" time="0.4"/>
</testsuite></testsuites>
"""


def test_the_seconds_of_a_report_are_summed_by_folder(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(REPORT)

    row = durations.row(path)

    assert row.pop("machine")
    assert row == {
        "date": "2026-03-01",
        "run": "test, 2 workers",
        "tests": "4",
        "wall": "20",
        "sum": "14",
        "e2e": "9",
        "notegen/worker": "5",
        "retrieval/api": "0",
    }


def test_a_run_is_added_below_earlier_ones_with_other_folders(tmp_path: Path) -> None:
    history = tmp_path / "durations.csv"
    common = {"run": "test", "machine": "one", "tests": "1", "wall": "2", "sum": "2"}

    durations.add({"date": "2026-01-01"} | common | {"old": "2"}, history)
    durations.add({"date": "2026-02-01"} | common | {"new": "3"}, history)

    with history.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["date"], row["old"], row["new"]) for row in rows] == [("2026-01-01", "2", ""), ("2026-02-01", "", "3")]


def test_the_committed_history_can_be_read() -> None:
    with durations.HISTORY.open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert rows
    assert all(int(row["tests"]) > 1000 and int(row["wall"]) > 0 for row in rows)
