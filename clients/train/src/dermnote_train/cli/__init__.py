"""The command line `dermnote`: one file per noun."""

import typer

app = typer.Typer(name="dermnote", no_args_is_help=True, add_completion=False)


def main() -> None:
    """Entry point of the console script."""
    app()
