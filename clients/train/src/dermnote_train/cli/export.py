"""dermnote export: write a model folder for the retrieval service."""

import re
from pathlib import Path
from typing import Annotated

import typer

from dermnote_train.cli import output
from dermnote_train.config import Runtime
from dermnote_train.errors import UserError
from dermnote_train.settings import Settings

MODEL_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"


def export(
    what: Annotated[
        str, typer.Argument(metavar="RUN|lite", help="A run folder, or lite (the pretrained towers, not fine-tuned).")
    ],
    models_dir: Annotated[Path | None, typer.Option(help="Models folder; DERMNOTE_MODELS_DIR by default.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Model name; the name of the run folder (or lite) by default.")
    ] = None,
    runtime: Annotated[
        Runtime, typer.Option(help="Runtimes that can serve the model: ONNX (no torch), open_clip, or both.")
    ] = "both",
) -> None:
    """Write a model folder with its manifest, atomically."""
    from dermnote_train.models.checkpoint import load_checkpoint
    from dermnote_train.models.export import export_lite, export_model
    from dermnote_train.models.run_folder import read_run_data
    from dermnote_train.report.study.model_cards import CARD_NAME

    name = name or ("lite" if what == "lite" else Path(what).resolve().name)
    if not re.fullmatch(MODEL_NAME, name):
        raise UserError(
            f"{name}: not a valid model name; choose a --name of at most 128 letters, digits, '.', '_' and '-' that "
            "does not begin with a dot"
        )
    models_dir = models_dir or Settings().models_dir
    with output.console().status("exporting"):
        if what == "lite":
            folder = export_lite(models_dir, name=name, runtime=runtime)
        else:
            run = Path(what)
            data = read_run_data(run)
            folder = export_model(
                load_checkpoint(run),
                models_dir=models_dir,
                name=name,
                synthetic=data.synthetic,
                runtime=runtime,
                card=run / CARD_NAME,
            )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    output.print_line(f"model: {folder} ({size / 1e6:.0f} MB)")
