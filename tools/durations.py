"""Adds a row to docs/test-durations.csv: how long the last `make test` or `make test-all` took, and each folder.

python tools/durations.py      (reads .dermnote/junit.xml)

Columns: `wall`: seconds from start to end; `sum` and folders: the seconds of their tests, some of which overlapped.
"""

import csv
import datetime
import os
import platform
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
REPORT, HISTORY = ROOT / ".dermnote" / "junit.xml", ROOT / "docs" / "test-durations.csv"
COLUMNS = ("date", "run", "machine", "tests", "wall", "sum")


def folder(classname: str) -> str:
    """The first two levels of a test's folder: tests.notegen.worker.test_main -> notegen/worker."""
    parts = classname.split(".")[1:]
    modules = next(number for number, part in enumerate(parts) if part.startswith("test_"))
    return "/".join(parts[:modules][:2]) or "."


def row(report: Path) -> dict[str, str]:
    """The row of a JUnit report. Raises FileNotFoundError or ElementTree.ParseError."""
    (suite,) = ElementTree.parse(report).getroot().iter("testsuite")  # noqa: S314  our own file
    seconds: defaultdict[str, float] = defaultdict(float)
    for case in suite.iter("testcase"):
        seconds[folder(case.attrib["classname"])] += float(case.attrib["time"])
    return {
        "date": datetime.datetime.fromisoformat(suite.attrib["timestamp"]).date().isoformat(),
        "run": suite.attrib["name"],
        "machine": f"{machine()}, {os.cpu_count()} cores",
        "tests": suite.attrib["tests"],
        "wall": f"{float(suite.attrib['time']):.0f}",
        "sum": f"{sum(seconds.values()):.0f}",
    } | {name: f"{seconds[name]:.0f}" for name in sorted(seconds)}


def machine() -> str:
    """The processor's name."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def add(new: dict[str, str], history: Path) -> None:
    """Append a row; folders that the history has not seen yet become columns on the right."""
    rows = [new]
    if history.exists():
        with history.open(newline="") as file:
            rows = [*csv.DictReader(file), new]
    folders = dict.fromkeys(name for one in rows for name in one if name not in COLUMNS)
    with history.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *folders], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Add the row of the last run."""
    if not REPORT.exists():
        sys.exit(f"{REPORT}: not found; run `make test` first")
    add(row(REPORT), HISTORY)


if __name__ == "__main__":
    main()
