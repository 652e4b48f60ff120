"""The command line `dermnote`: one module per command group."""

import errno
from typing import Any

import stamina
import typer
from typer.core import TyperGroup

from dermnote_contracts.problems import DermnoteError, one_line
from dermnote_train.cli import datasets, demo, evaluate, export, findings, index, notes, output, study, train
from dermnote_train.errors import UserError


class _OneLineErrors(TyperGroup):
    """Prints errors that the user can fix as one line on stderr; bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        code = 1
        try:
            with output.warning_lines():
                return super().invoke(ctx)
        except UserError as error:
            message = str(error)
        except DermnoteError as error:
            message = one_line(error)
        except OSError as error:
            if error.errno in (None, errno.EPIPE):  # not a file error, or the reader closed the pipe
                raise
            message = f"{error.filename2 or error.filename or 'writing'}: {error.strerror}"
        except typer.TyperException as error:
            message, code = f"{error.format_message()} (see --help)", error.exit_code
            if not error.format_message():  # no arguments: the help has been printed
                raise
        typer.echo(f"error: {' '.join(message.split())}", err=True)
        raise typer.Exit(code)


def make_app() -> typer.Typer:
    """The command-line parser with all commands."""
    app = typer.Typer(name="dermnote", cls=_OneLineErrors, no_args_is_help=True, add_completion=False)
    app.add_typer(
        datasets.app, name="datasets", help="Data sets: list, fetch, inspect, check, leakage, draw and split."
    )
    app.command("findings")(findings.findings)
    app.command("notes")(notes.notes)
    app.command("train")(train.train)
    app.command("evaluate")(evaluate.evaluate)
    app.command("export")(export.export)
    app.command("index")(index.index)
    app.command("search")(index.search)
    app.command("study")(study.study)
    app.command("demo")(demo.demo)
    return app


def main() -> None:
    """Entry point of the console script."""
    stamina.instrumentation.set_on_retry_hooks([])  # report only the final failure, not every retry
    make_app()()
