"""What the commands print: progress bars while work runs, tables at its end."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from dermnote_train.progress import Report, Step

WIDTH_WITHOUT_TERMINAL = 120
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
    table = Table(title=escape(title), title_justify="left", header_style="bold")
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if numeric and numeric[place] else "left")
    for row in listed:
        table.add_row(*map(escape, row))
    console().print(table)


def format_cell(value: object) -> str:
    """A cell's text: three decimals, a dash for nothing."""
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


@contextmanager
def bars() -> Iterator[Report]:
    """A progress bar for every stage that is reported; the epochs of a run share one."""
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=console()) as progress:
        tasks: dict[str, TaskID] = {}

        def report(step: Step) -> None:
            key = EPOCH.sub("", step.stage)
            if key not in tasks:
                tasks[key] = progress.add_task(step.stage, total=step.total or None, detail="")
            progress.update(
                tasks[key], description=step.stage, completed=step.done, total=step.total or None, detail=step.detail
            )

        yield report
