"""Terminal output of the commands: lines, tables and progress bars."""

import logging
import re
import sys
import time
from collections.abc import Iterator, Sequence
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
from typer import echo

from dermnote_train.progress import Report, Step

WIDTH_WITHOUT_TERMINAL = 120
LINE_EVERY_S = 20.0
EPOCH = re.compile(r" \d+/\d+$")


def console() -> Console:
    """The console for standard output, with a fixed width if that is not a terminal."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL)


def print_line(text: str) -> None:
    """Print a line of plain text without wrapping, so that paths can be copied."""
    console().print(escape(text), soft_wrap=True, highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; columns without text are right-aligned."""
    table = Table(header_style="bold")
    for index, name in enumerate(columns):
        text = any(isinstance(row[index], str) for row in rows)
        table.add_column(name, justify="left" if text else "right")
    for row in rows:
        table.add_row(*(escape(cell if isinstance(cell, str) else format_cell(cell)) for cell in row))
    console().print(f"[bold]{escape(title)}[/bold]", soft_wrap=True, highlight=False)
    console().print(table)


def format_cell(value: object) -> str:
    """The text of a cell: floats with three decimals, a dash for None."""
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


class _WarningLines(logging.Handler):
    """Writes each record as one line to stderr, above the progress bars where there are any."""

    def emit(self, record: logging.LogRecord) -> None:
        echo(f"{record.levelname.lower()}: {' '.join(record.getMessage().split())}", err=True)


@contextmanager
def warning_lines() -> Iterator[None]:
    """Print the warnings that this package logs within the block, for example that a damaged file is recomputed."""
    handler, log = _WarningLines(logging.WARNING), logging.getLogger("dermnote_train")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def progress_bars() -> Iterator[Report]:
    """One progress bar per stage (the epochs of a run share one); plain lines if the output is not a terminal."""
    terminal = console()
    if not terminal.is_terminal:
        yield _line_report(terminal)
        return
    progress = Progress(
        TextColumn("{task.description:<30}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
        console=terminal,
        redirect_stderr=sys.stderr.isatty(),  # a terminal's stderr goes above the bars; a file's is left alone
    )
    tasks: dict[str, TaskID] = {}

    def report(step: Step) -> None:
        progress.start()
        key, total = EPOCH.sub("", step.stage), step.total or None
        if key not in tasks:
            tasks[key] = progress.add_task(step.stage, total=total, detail="")
        progress.update(tasks[key], description=step.stage, completed=step.done, total=total, detail=step.detail)

    try:
        yield report
    finally:
        if tasks:
            progress.stop()


def _line_report(terminal: Console) -> Report:
    """Progress as plain lines: one at the end of each stage, and at most one every 20 s in between."""
    last_line = time.monotonic()
    ended: set[str] = set()

    def report(step: Step) -> None:
        nonlocal last_line
        ends = step.done >= step.total > 0 and step.stage not in ended
        if ends or time.monotonic() - last_line > LINE_EVERY_S:
            last_line = time.monotonic()
            terminal.print(f"{escape(step.stage)}: {step.done}/{step.total} {escape(step.detail)}", highlight=False)
        if ends:
            ended.add(step.stage)

    return report
