"""The data set and split of a training run, stored with the weights for evaluation and export."""

from pathlib import Path

from pydantic import ValidationError

from dermnote_train.config import StrictModel
from dermnote_train.data.labels import ClassSet
from dermnote_train.data.records import LesionDataset, Split
from dermnote_train.data.splits import read_split, write_split
from dermnote_train.errors import UserError
from dermnote_train.files import write_text

DATA_NAME, SPLIT_NAME = "data.json", "split.csv"


class RunData(StrictModel):
    """The data set of a run. `synthetic`: its images are drawn."""

    dataset: str
    classes: tuple[str, ...]
    class_set: ClassSet
    synthetic: bool
    strategy: str | None


def write_run_data(
    run_dir: Path, dataset: LesionDataset, *, split: Split, class_set: ClassSet, strategy: str | None
) -> None:
    """Write data.json and split.csv. `strategy`: that of the training notes, None for images alone."""
    write_split(run_dir / SPLIT_NAME, split)
    data = RunData(
        dataset=dataset.name,
        classes=dataset.classes,
        class_set=class_set,
        synthetic=dataset.synthetic,
        strategy=strategy,
    )
    write_text(run_dir / DATA_NAME, data.model_dump_json(indent=2) + "\n")


def read_run_data(run_dir: Path) -> RunData:
    """Read data.json. Raises UserError."""
    try:
        return RunData.model_validate_json((run_dir / DATA_NAME).read_text("utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise UserError(
            f"{run_dir}: not a run folder ({DATA_NAME} is missing or damaged); create one with: dermnote train"
        ) from error


def read_run_split(run_dir: Path, dataset: LesionDataset) -> Split:
    """The split that the run was trained on. Raises UserError if the data set lacks any of its images."""
    return read_split(run_dir / SPLIT_NAME, dataset)
