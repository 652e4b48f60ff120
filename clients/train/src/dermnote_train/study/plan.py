"""The plan of a study, which can be read from TOML: domains, routes between them, arms and seeds."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from dermnote_train.config import Augmentation, StrictModel, StudyMode, TrainConfig
from dermnote_train.errors import UserError
from dermnote_train.study.arms import ARMS

NAME = re.compile(r"[^./\\][^/\\]*")
POOLS = ("val", "train", "home")
"""The parts of a route's training domain."""
Wording = Literal["notes", "facts"]


class Domain(StrictModel):
    """A data folder, or only its rows that match `where` (column -> accepted values)."""

    folder: Path
    where: Mapping[str, tuple[str, ...]] = {}


class Route(StrictModel):
    """Training on one domain, testing on its held-out part ("home") and on all of each domain in `away`."""

    train: str
    away: tuple[str, ...] = ()


class FrozenGrid(StrictModel):
    """Heads trained on features of the pretrained image tower, with `views` augmented views of every image.

    `patience`: epochs without a better validation loss before a candidate stops. `wording`: the text branch gets the
    notes as the service wrote them, or a list of the facts that they state.
    """

    arms: tuple[str, ...] = tuple(ARMS)
    seeds: int = Field(default=5, ge=1, le=100)
    image_size: int = Field(default=224, ge=32, le=512)
    views: int = Field(default=6, ge=0, le=64)
    augmentation: Augmentation = "paper"
    wording: Wording = "notes"
    epochs: int = Field(default=60, ge=1, le=10000)
    patience: int = Field(default=15, ge=1)
    batch_size: int = Field(default=128, ge=2, le=4096)


class TunedGrid(StrictModel):
    """Image tower and heads trained together, once per cell, as `dermnote train` does."""

    arms: tuple[str, ...] = ("image", "M", "G", "G-findings", "random")
    routes: tuple[str, ...] = ()
    seeds: int = Field(default=3, ge=1, le=100)
    config: TrainConfig = TrainConfig()


class Ablations(StrictModel):
    """Changes to the frozen grid ([trials] in TOML), each compared with the unchanged grid on home validation data.

    For reporting only: no setting of the study may be chosen from them, since validation images of one seed are test
    images of another. routes: named by their training domain; empty for all. changes: name -> changed settings.
    """

    arms: tuple[str, ...] = ("image", "G-findings", "G-findings-blinded")
    routes: tuple[str, ...] = ()
    seeds: int = Field(default=3, ge=1, le=100)
    changes: Mapping[str, Mapping[str, Any]] = {}


class StudyPlan(StrictModel):
    """A complete study. `mode`: "paper" splits by image and searches pools that include the query's own note and the
    training notes, as the authors' code does; "strict" does neither. `resamples`: bootstrap resamples for
    the intervals.
    """

    model_config = ConfigDict(populate_by_name=True)

    domains: Mapping[str, Domain]
    routes: tuple[Route, ...] = Field(min_length=1)
    mode: StudyMode = "strict"
    frozen: FrozenGrid | None = FrozenGrid()
    tuned: TunedGrid | None = None
    ablations: Ablations | None = Field(default=None, alias="trials")
    notes_seed: int = Field(default=0, ge=0, lt=2**31)
    limit: int | None = Field(default=None, ge=1)
    resamples: int = Field(default=2000, ge=100, le=100_000)

    @model_validator(mode="after")
    def _check_folder_names(self) -> Self:
        for name in (*self.domains, *(self.ablations.changes if self.ablations else ())):
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} names a folder too, so it must not contain a slash or backslash or start with a dot"
                )
        for name in set(self.domains) & set(POOLS):
            raise ValueError(f"a domain cannot be named {name!r}, which is reserved for a part of a domain; rename it")
        return self

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        trained = [route.train for route in self.routes]
        for name in {*trained, *(away for route in self.routes for away in route.away)} - set(self.domains):
            raise ValueError(f"unknown domain {name!r}; known: {', '.join(self.domains)}")
        if len(set(trained)) < len(trained):
            raise ValueError("two routes train on the same domain; merge them into one route")
        for grid in (self.frozen, self.tuned, self.ablations):
            for name in () if grid is None else grid.arms:
                if name not in ARMS:
                    raise ValueError(f"unknown arm {name!r}; known: {', '.join(ARMS)}")
        for name in self.tuned.arms if self.tuned else ():
            if ARMS[name].table or ARMS[name].shuffled_labels or len(ARMS[name].notes) > 1:
                raise ValueError(f"tuned.arms: {name} is supported in the frozen grid only")
        for section, grid in (("tuned", self.tuned), ("trials", self.ablations)):
            for name in set(grid.routes if grid else ()) - set(trained):
                raise ValueError(f"{section}.routes: no route trains on {name!r}; known: {', '.join(trained)}")
        if self.ablations and self.ablations.changes:
            self._check_ablations(self.ablations)
        return self

    def _check_ablations(self, ablations: Ablations) -> None:
        if self.frozen is None:
            raise ValueError("trials: the plan has no frozen grid to change")
        if ablations.seeds > self.frozen.seeds:
            raise ValueError(f"trials.seeds: at most {self.frozen.seeds}, as in the frozen grid")
        for arm in set(ablations.arms) - set(self.frozen.arms):
            raise ValueError(f"trials.arms: {arm} is not in the frozen grid, so it cannot be compared")
        for name, change in ablations.changes.items():
            for setting in set(change) & {"arms", "seeds"}:
                raise ValueError(f"trials.changes.{name}: {setting} cannot be changed")
        self.ablation_grids()

    def ablation_grids(self) -> dict[str, FrozenGrid]:
        """The changed frozen grids, by the name of the change."""
        if self.ablations is None or self.frozen is None:
            return {}
        base = self.frozen.model_dump() | {"arms": self.ablations.arms, "seeds": self.ablations.seeds}
        return {name: FrozenGrid.model_validate(base | dict(change)) for name, change in self.ablations.changes.items()}

    def routes_of(self, grid: FrozenGrid | TunedGrid) -> tuple[Route, ...]:
        """The routes of a grid; the tuned grid may have only some."""
        if isinstance(grid, TunedGrid) and grid.routes:
            return tuple(route for route in self.routes if route.train in grid.routes)
        return self.routes

    def arms(self) -> tuple[str, ...]:
        """The arms of both grids, in the order of ARMS."""
        used = {name for grid in (self.frozen, self.tuned) if grid is not None for name in grid.arms}
        return tuple(name for name in ARMS if name in used)


def read_plan(path: Path) -> StudyPlan:
    """Read a plan from TOML; its folders are relative to the file. Raises UserError."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: unreadable study plan: {error}") from error
    plan = _validate(values, source=str(path))
    domains = {
        name: domain.model_copy(update={"folder": path.parent / domain.folder}) for name, domain in plan.domains.items()
    }
    return plan.model_copy(update={"domains": domains})


def _validate(values: Mapping[str, Any], *, source: str) -> StudyPlan:
    try:
        return StudyPlan.model_validate(values)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}".lstrip(": ") for one in error.errors())
        raise UserError(f"{source}: {faults}") from error


def plan_of(home: Path, away: tuple[Path, ...], *, names: Mapping[Path, str]) -> StudyPlan:
    """A plan without a file: one route per folder, which trains on this folder and tests on all others too."""
    folders = (home, *away)
    domains = {names[folder]: Domain(folder=folder) for folder in folders}
    if len(domains) < len(folders):
        raise UserError(
            f"two data sets have the same name ({', '.join(names[folder] for folder in folders)}); use a plan file"
        )
    routes = tuple(Route(train=name, away=tuple(other for other in domains if other != name)) for name in domains)
    return _validate({"domains": domains, "routes": routes}, source=", ".join(map(str, folders)))
