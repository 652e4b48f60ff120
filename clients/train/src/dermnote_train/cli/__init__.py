"""The command line `dermnote`: one file per noun. Prints, asks the package to work, and turns errors into one line."""

import errno
from typing import Any

import stamina
import typer
from typer.core import TyperGroup

from dermnote_contracts.problems import DermnoteError, one_line
from dermnote_train.cli import datasets, demo, evaluate, export, findings, index, notes, search, study, train
from dermnote_train.errors import UserError


class _OneLineErrors(TyperGroup):
    """Errors that a person can mend end in one line on stderr and exit code 1; bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        code = 1
        try:
            return super().invoke(ctx)
        except UserError as wrong:
            message = str(wrong)
        except DermnoteError as wrong:
            message = one_line(wrong)
        except OSError as wrong:
            if wrong.errno in (None, errno.EPIPE):  # no error of a file; a reader that went away is nobody's fault
                raise
            message = f"{wrong.filename2 or wrong.filename or 'writing'}: {wrong.strerror}"
        except typer.TyperException as wrong:
            message, code = f"{wrong.format_message()} (see --help)", wrong.exit_code
            if not wrong.format_message():  # a command that was given nothing has shown its help
                raise
        typer.echo(f"error: {' '.join(message.split())}", err=True)
        raise typer.Exit(code)


def make_app() -> typer.Typer:
    """The command line's parser with all its commands."""
    app = typer.Typer(name="dermnote", cls=_OneLineErrors, no_args_is_help=True, add_completion=False)
    app.add_typer(datasets.app, name="datasets", help="Data sets: list, fetch, inspect, check, leakage, draw, split.")
    app.command("findings")(findings.findings)
    app.command("notes")(notes.notes)
    app.command("train")(train.train)
    app.command("evaluate")(evaluate.evaluate)
    app.command("export")(export.export)
    app.command("index")(index.index)
    app.command("search")(search.search)
    app.command("study")(study.study)
    app.command("demo")(demo.demo)
    return app


def main() -> None:
    """Entry point of the console script."""
    stamina.instrumentation.set_on_retry_hooks([])  # what finally fails is told once; each try is not
    make_app()()
