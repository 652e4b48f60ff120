"""A cell of the study: what it is made from, in either grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dermnote_train.records import LesionDataset, Record, Split
from dermnote_train.study.arms import Texts


@dataclass(frozen=True)
class Cell:
    """One arm on one route with one seed.

    dataset: of the training domain; pools: name ("val", "home", a domain's) -> held-out records; sets: note set ->
    texts.
    """

    route: str
    arm: str
    seed: int
    dataset: LesionDataset
    split: Split
    pools: Mapping[str, Sequence[Record]]
    sets: Mapping[str, Texts]
    classes: tuple[str, ...]


def cell_path(grid: str, route: str, arm: str, seed: int) -> str:
    """Where a cell's file lies, below the study's folder of cells."""
    return f"{grid}/{route}/{arm}/seed{seed}.safetensors"
