"""The command line `dermnote`: one file per noun. Prints, asks the package to work, and turns errors into one line."""

from typing import Any

import stamina
import typer
from typer.core import TyperGroup

from dermnote_contracts.problems import DermnoteError, one_line
from dermnote_train.cli import datasets, demo, evaluate, export, index, notes, search, train
from dermnote_train.errors import UserError


class _OneLineErrors(TyperGroup):
    """Errors that a person can mend end in one line on stderr and exit code 1; bugs keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as wrong:
            message = str(wrong)
        except DermnoteError as wrong:
            message = one_line(wrong)
        typer.echo(f"error: {' '.join(message.split())}", err=True)
        raise typer.Exit(1)


def make_app() -> typer.Typer:
    """The command line's parser with all its commands."""
    app = typer.Typer(name="dermnote", cls=_OneLineErrors, no_args_is_help=True, add_completion=False)
    app.add_typer(datasets.app, name="datasets", help="Data sets: list, inspect, check, draw, split.")
    app.command("notes")(notes.notes)
    app.command("train")(train.train)
    app.command("evaluate")(evaluate.evaluate)
    app.command("export")(export.export)
    app.command("index")(index.index)
    app.command("search")(search.search)
    app.command("demo")(demo.demo)
    return app


def main() -> None:
    """Entry point of the console script."""
    stamina.instrumentation.set_on_retry_hooks([])  # what finally fails is told once; each try is not
    make_app()()
