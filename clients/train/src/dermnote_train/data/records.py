"""A data set in memory: records, classes and splits."""

from dataclasses import dataclass
from pathlib import Path

from dermnote_contracts.metadata import LesionMetadata


@dataclass(frozen=True)
class Record:
    """An image and its facts.

    `image_id` is unique in its data set ([A-Za-z0-9_-]); `group` is the patient or lesion by which data are split and
    hits excluded; `label` is one of LesionDataset.classes.
    """

    image_id: str
    image_path: Path
    group: str
    label: str
    metadata: LesionMetadata


@dataclass(frozen=True)
class LesionDataset:
    """Records of one source. `synthetic`: the images are drawn, not photographed."""

    name: str
    records: tuple[Record, ...]
    classes: tuple[str, ...]
    synthetic: bool
    licence: str


@dataclass(frozen=True)
class Split:
    """Three parts without common groups, drawn with `seed`."""

    train: tuple[Record, ...]
    val: tuple[Record, ...]
    test: tuple[Record, ...]
    seed: int
