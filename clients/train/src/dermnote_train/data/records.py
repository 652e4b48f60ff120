"""A data set in memory: records, classes, splits. Values only; who reads and writes them is in `data`."""

from dataclasses import dataclass
from pathlib import Path

from dermnote_contracts.metadata import LesionMetadata


@dataclass(frozen=True)
class Record:
    """One image and its facts.

    `image_id` is unique in its data set ([A-Za-z0-9._-]); `group` is the patient or lesion that splits and exclusions
    go by; `label` is one of LesionDataset.classes.
    """

    image_id: str
    image_path: Path
    group: str
    label: str
    metadata: LesionMetadata


@dataclass(frozen=True)
class LesionDataset:
    """Records of one source. `synthetic`: the pictures are drawn, not photographed."""

    name: str
    records: tuple[Record, ...]
    classes: tuple[str, ...]
    synthetic: bool
    licence: str


@dataclass(frozen=True)
class Split:
    """Three parts that share no group. `seed` made them."""

    train: tuple[Record, ...]
    val: tuple[Record, ...]
    test: tuple[Record, ...]
    seed: int
