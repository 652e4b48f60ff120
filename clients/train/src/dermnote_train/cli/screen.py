"""What the commands print: progress bars while work runs, tables at its end."""

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from dermnote_train.progress import Report, Step

WIDTH_WITHOUT_TERMINAL = 120
LINE_EVERY_S = 20.0
EPOCH = re.compile(r" \d+/\d+$")


def console() -> Console:
    """The terminal, or a page of fixed width where there is none."""
    probe = Console()
    return probe if probe.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL)


def say(text: str) -> None:
    """One line of plain text, never wrapped, so that paths can be copied."""
    console().print(escape(text), soft_wrap=True, highlight=False)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; cells are shown as text, numbers to the right."""
    listed = [[cell if isinstance(cell, str) else format_cell(cell) for cell in row] for row in rows]
    numeric = (
        [all(not isinstance(row[i], str) for row in rows) for i in range(len(columns))]
        if isinstance(rows, list)
        else []
    )
    table = Table(header_style="bold")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if numeric and numeric[place] else "left")
    for row in listed:
        table.add_row(*map(escape, row))
    console().print(f"[bold]{escape(title)}[/bold]", soft_wrap=True, highlight=False)
    console().print(table)


def format_cell(value: object) -> str:
    """A cell's text: three decimals, a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


@contextmanager
def bars() -> Iterator[Report]:
    """A progress bar for every stage that is reported; the epochs of a run share one. Lines without a terminal."""
    page = console()
    if not page.is_terminal:
        yield _Lines(page)
        return
    progress = Progress(*_columns(), console=page)
    tasks: dict[str, TaskID] = {}

    def report(step: Step) -> None:
        progress.start()
        key = EPOCH.sub("", step.stage)
        if key not in tasks:
            tasks[key] = progress.add_task(step.stage, total=step.total or None, detail="")
        progress.update(
            tasks[key], description=step.stage, completed=step.done, total=step.total or None, detail=step.detail
        )

    try:
        yield report
    finally:
        if tasks:
            progress.stop()


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description:<30}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )


class _Lines:
    """Progress for a log: a line when a stage is done, and one now and then while it runs."""

    def __init__(self, page: Console) -> None:
        self.page = page
        self.told_at = time.monotonic()
        self.done: set[str] = set()

    def __call__(self, step: Step) -> None:
        ended = step.done >= step.total > 0 and step.stage not in self.done
        if ended or time.monotonic() - self.told_at > LINE_EVERY_S:
            self.told_at = time.monotonic()
            self.page.print(f"{escape(step.stage)}: {step.done}/{step.total} {escape(step.detail)}", highlight=False)
        if ended:
            self.done.add(step.stage)
