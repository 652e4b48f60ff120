"""dermnote export: a model folder for the retrieval service."""

import re
from pathlib import Path
from typing import Annotated

import typer

from dermnote_train.cli import screen
from dermnote_train.errors import UserError
from dermnote_train.models.checkpoint import load_checkpoint
from dermnote_train.models.export import Runtime, export_lite, export_model
from dermnote_train.models.run_folder import read_run_data
from dermnote_train.settings import read_settings
from dermnote_train.study.model_cards import CARD_NAME

MODEL_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"


def export(
    what: Annotated[
        str, typer.Argument(metavar="RUN|lite", help="A run folder, or lite: the pretrained towers as they are.")
    ],
    models_dir: Annotated[Path | None, typer.Option(help="Folder of models; DERMNOTE_MODELS_DIR by default.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; the run's or lite by default.")] = None,
    runtime: Annotated[
        Runtime, typer.Option(help="What the folder can be served by: ONNX graphs (no torch), open_clip, or both.")
    ] = "both",
) -> None:
    """Write a model with its manifest, whole or not at all."""
    where = models_dir or read_settings().models_dir
    with screen.console().status("exporting"):
        if what == "lite":
            folder = export_lite(where, name=_checked(name or "lite"), runtime=runtime)
        else:
            run = Path(what)
            data = read_run_data(run)
            model = load_checkpoint(run)
            folder = export_model(
                model,
                models_dir=where,
                name=_checked(name or run.resolve().name),
                synthetic=data.synthetic,
                runtime=runtime,
                card=run / CARD_NAME,
            )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    screen.say(f"model: {folder} ({size / 1e6:.0f} MB)")


def _checked(name: str) -> str:
    if not re.fullmatch(MODEL_NAME, name):
        raise UserError(f"{name}: no name for a model; give --name of letters, digits, '.', '_' and '-'")
    return name
