"""dermnote train: train an image+text model or an image-only one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import ValidationError

from dermnote_train.cli import options, output
from dermnote_train.config import TrainConfig
from dermnote_train.errors import UserError
from dermnote_train.progress import silent
from dermnote_train.settings import Settings

if TYPE_CHECKING:
    from dermnote_train.training.train import TrainResult


def train(
    folder: options.Folder,
    *,
    notes: options.Notes = None,
    image_only: Annotated[bool, typer.Option("--image-only", help="Train without notes.")] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder; DERMNOTE_HOME/runs/NAME by default.")] = None,
    paper: Annotated[
        bool, typer.Option("--paper", help="The paper's schedule: 224 px, 10 epochs, one learning rate.")
    ] = False,
    preset: Annotated[
        str | None,
        typer.Option(
            help="lite, paper (DenseNet121, PubMedBERT), or an open_clip model (hf-hub:OWNER/NAME, local-dir:PATH)."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, max=1000, help="Training epochs.")] = None,
    image_size: Annotated[
        int | None, typer.Option(min=32, max=512, help="Side of the training images in pixels.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, max=4096, help="Images per batch.")] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"] | None, typer.Option(help="auto: bfloat16 on a GPU, float32 on a CPU.")
    ] = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="Batches per optimiser step.")] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard events to the run folder.")
    ] = False,
    classes: options.Classes = "paper5",
    labels: options.Labels = None,
    limit: options.Limit = None,
    seed: options.Seed = 0,
) -> None:
    """Train on 60 % of the groups, with 20 % for early stopping; 20 % are held out for dermnote evaluate.

    Run the command again to resume an interrupted run. For several GPUs or hosts: torchrun --no-python dermnote train
    """
    from dermnote_train.data.splits import split_dataset
    from dermnote_train.models.run_folder import write_run_data
    from dermnote_train.notes.table import read_notes, texts_for
    from dermnote_train.training.distributed import process_group
    from dermnote_train.training.train import train as train_model

    base = TrainConfig.paper(seed=seed) if paper else TrainConfig(seed=seed)
    overrides = {
        "preset": preset,
        "epochs": epochs,
        "image_size": image_size,
        "batch_size": batch_size,
        "precision": precision,
        "accumulate": accumulate,
    }
    try:
        config = TrainConfig.model_validate(
            base.model_dump() | {name: value for name, value in overrides.items() if value is not None}
        )
    except ValidationError as error:
        raise UserError("; ".join(f"--{one['loc'][0]}: {one['msg']}" for one in error.errors())) from error
    with process_group() as group, output.progress_bars() as progress:
        dataset = options.read_dataset(
            folder, classes=classes, labels=labels, limit=limit, seed=seed, progress=progress
        )
        split = split_dataset(dataset, seed=seed)
        run_dir = out or Settings().dermnote_home / "runs" / (dataset.name + ("-image-only" if image_only else ""))
        source = notes or options.notes_path(dataset.name)
        rows = () if image_only else read_notes(source)
        texts = None if image_only else texts_for(dataset.records, rows, source=source)
        result = train_model(
            config,
            split=split,
            classes=dataset.classes,
            notes=texts,
            run_dir=run_dir,
            group=group,
            tensorboard=tensorboard,
            progress=progress if group.is_main else silent,
        )
    if not group.is_main:
        return
    write_run_data(run_dir, dataset, split=split, class_set=classes, strategy=rows[0].strategy if rows else None)
    print_training(result)
    output.print_line(f"run: {run_dir}")


def print_training(result: "TrainResult") -> None:
    """Print the metrics of every epoch; the epoch whose weights were saved is marked."""
    output.print_table(
        f"Training, {result.images_per_s:.0f} images/s",
        ("epoch", "loss", "validation cross-entropy", "validation balanced accuracy", "saved"),
        [
            (row.epoch, row.loss, row.val_ce, row.val_balanced_accuracy, "*" if row.epoch == result.best_epoch else "")
            for row in result.history
        ],
    )
