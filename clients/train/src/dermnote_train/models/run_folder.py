"""Which data a run folder was trained on: kept beside the weights, so that evaluation and export can't mix it up."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from dermnote_train.data.labels import ClassSet
from dermnote_train.data.records import LesionDataset, Split
from dermnote_train.data.splits import read_split, write_split
from dermnote_train.errors import UserError
from dermnote_train.files import atomic_write

DATA_NAME, SPLIT_NAME = "data.json", "split.csv"


class RunData(BaseModel):
    """The data set of a run. `synthetic`: its pictures are drawn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    classes: tuple[str, ...]
    class_set: ClassSet
    synthetic: bool
    strategy: str | None


def keep_run_data(
    run_dir: Path, dataset: LesionDataset, *, split: Split, class_set: ClassSet, strategy: str | None
) -> None:
    """Write data.json and split.csv. `strategy`: of the notes it was trained with, None for images alone."""
    write_split(run_dir / SPLIT_NAME, split)
    data = RunData(
        dataset=dataset.name,
        classes=dataset.classes,
        class_set=class_set,
        synthetic=dataset.synthetic,
        strategy=strategy,
    )
    with atomic_write(run_dir / DATA_NAME) as partial:
        partial.write_text(data.model_dump_json(indent=2) + "\n", "utf-8")


def read_run_data(run_dir: Path) -> RunData:
    """What keep_run_data wrote. Raises UserError."""
    try:
        return RunData.model_validate_json((run_dir / DATA_NAME).read_text("utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as wrong:
        raise UserError(
            f"{run_dir}: not a run folder ({DATA_NAME} is missing or damaged); make one with: dermnote train"
        ) from wrong


def run_split(run_dir: Path, dataset: LesionDataset) -> Split:
    """The split that the run was trained on. Raises UserError if the data set lacks any of it."""
    return read_split(run_dir / SPLIT_NAME, dataset)
