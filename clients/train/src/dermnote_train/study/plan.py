"""What a study asks: domains, routes between them, arms and seeds. Values only, and their TOML form."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dermnote_train.config import TrainConfig
from dermnote_train.errors import UserError
from dermnote_train.study.arms import ARMS
from dermnote_train.training.augment import Augmentation

NAME = re.compile(r"[^./\\][^/\\]*")
POOLS = ("val", "train", "home")
"""Names of parts of a route's own domain."""
Mode = Literal["strict", "paper"]
Wording = Literal["notes", "facts"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Domain(_Part):
    """Where pictures come from: a data folder, or the rows of it whose cells are as `where` says (column -> cells)."""

    folder: Path
    where: Mapping[str, tuple[str, ...]] = {}


class Route(_Part):
    """Trained on one domain, tested on its own held-out part ("home") and on the whole of each domain of `away`."""

    train: str
    away: tuple[str, ...] = ()


class FrozenGrid(_Part):
    """The image tower as it came; heads trained on its features of `views` augmented views of every picture.

    `patience`: epochs without a better validation loss, after which a candidate's training ends. `wording`: of what is
    read: notes as the service wrote them, or a list of the facts that they state.
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


class TunedGrid(_Part):
    """The image tower trained with the heads, once for each cell, as `dermnote train` does."""

    arms: tuple[str, ...] = ("image", "M", "G", "G-findings", "random")
    routes: tuple[str, ...] = ()
    seeds: int = Field(default=3, ge=1, le=100)
    config: TrainConfig = TrainConfig()


class Trials(_Part):
    """Changes of the frozen grid, each compared with it on home validation data. A report, from which no setting may be
    taken for the same study: one seed's validation pictures are test pictures of another.

    routes: by what they train on; none for all. changes: name -> the settings of [frozen] that are otherwise.
    """

    arms: tuple[str, ...] = ("image", "G-findings", "G-findings-blinded")
    routes: tuple[str, ...] = ()
    seeds: int = Field(default=3, ge=1, le=100)
    changes: Mapping[str, Mapping[str, Any]] = {}


class StudyPlan(_Part):
    """A whole study. `mode`: "paper" splits by image and searches pools that hold the query's own note and the training
    notes, as the authors' code does; "strict" does neither. `resamples`: for the intervals.
    """

    domains: Mapping[str, Domain]
    routes: tuple[Route, ...] = Field(min_length=1)
    mode: Mode = "strict"
    frozen: FrozenGrid | None = FrozenGrid()
    tuned: TunedGrid | None = None
    trials: Trials | None = None
    notes_seed: int = Field(default=0, ge=0, lt=2**31)
    limit: int | None = Field(default=None, ge=1)
    resamples: int = Field(default=2000, ge=100, le=100_000)

    @model_validator(mode="after")
    def _names_can_be_folders(self) -> Self:
        for name in (*self.domains, *(self.trials.changes if self.trials else ())):
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} names a folder too; it can hold no slash and begin with no dot")
        for name in set(self.domains) & set(POOLS):
            raise ValueError(f"no domain can be named {name!r}; that is the name of a part of every route")
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        trained = [route.train for route in self.routes]
        for name in {*trained, *(away for route in self.routes for away in route.away)} - set(self.domains):
            raise ValueError(f"no domain {name!r}; there are {', '.join(self.domains)}")
        if len(set(trained)) < len(trained):
            raise ValueError("two routes train on the same domain; give one of them both in `away`")
        for grid in (self.frozen, self.tuned, self.trials):
            for name in () if grid is None else grid.arms:
                if name not in ARMS:
                    raise ValueError(f"no arm {name!r}; there are {', '.join(ARMS)}")
        for name in self.tuned.arms if self.tuned else ():
            if ARMS[name].table or ARMS[name].shuffled_labels or len(ARMS[name].notes) > 1:
                raise ValueError(f"tuned.arms: {name} is an arm of the frozen grid only")
        for part, grid in (("tuned", self.tuned), ("trials", self.trials)):
            for name in set(grid.routes if grid else ()) - set(trained):
                raise ValueError(f"{part}.routes: no route trains on {name!r}; there are {', '.join(trained)}")
        if self.trials and self.trials.changes:
            self._are_of_the_frozen_grid(self.trials)
        return self

    def _are_of_the_frozen_grid(self, trials: Trials) -> None:
        if self.frozen is None:
            raise ValueError("trials: they are changes of the frozen grid; the plan has none")
        if trials.seeds > self.frozen.seeds:
            raise ValueError(f"trials.seeds: the frozen grid has {self.frozen.seeds} only")
        for arm in set(trials.arms) - set(self.frozen.arms):
            raise ValueError(f"trials.arms: {arm} is no arm of the frozen grid, so there is nothing to compare it with")
        for name, change in trials.changes.items():
            for setting in set(change) & {"arms", "seeds"}:
                raise ValueError(f"trials.changes.{name}: {setting} can't be changed")
        self.tried()

    def tried(self) -> dict[str, FrozenGrid]:
        """The frozen grid with each change of the trials, by the change's name."""
        if self.trials is None or self.frozen is None:
            return {}
        own = self.frozen.model_dump() | {"arms": self.trials.arms, "seeds": self.trials.seeds}
        return {name: FrozenGrid.model_validate(own | dict(change)) for name, change in self.trials.changes.items()}

    def routes_of(self, grid: FrozenGrid | TunedGrid) -> tuple[Route, ...]:
        """The routes of one grid: the tuned one may be of some only."""
        if isinstance(grid, TunedGrid) and grid.routes:
            return tuple(route for route in self.routes if route.train in grid.routes)
        return self.routes

    def arms(self) -> tuple[str, ...]:
        """Every arm of either grid, in ARMS' order."""
        wanted = {name for grid in (self.frozen, self.tuned) if grid is not None for name in grid.arms}
        return tuple(name for name in ARMS if name in wanted)


def read_plan(path: Path) -> StudyPlan:
    """A plan from its TOML file; folders in it are found from where the file is. Raises UserError."""
    try:
        given = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as wrong:
        raise UserError(f"{path}: no study plan that can be read: {wrong}") from wrong
    plan = _valid(given, source=str(path))
    domains = {
        name: domain.model_copy(update={"folder": path.parent / domain.folder}) for name, domain in plan.domains.items()
    }
    return plan.model_copy(update={"domains": domains})


def _valid(given: Mapping[str, Any], *, source: str) -> StudyPlan:
    try:
        return StudyPlan.model_validate(given)
    except ValidationError as wrong:
        faults = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}".lstrip(": ") for one in wrong.errors())
        raise UserError(f"{source}: {faults}") from wrong


def plan_of(home: Path, away: tuple[Path, ...], *, names: Mapping[Path, str]) -> StudyPlan:
    """The plan of a command line without a file: train on `home` and test on each of `away`, and the reverse."""
    folders = (home, *away)
    domains = {names[folder]: Domain(folder=folder) for folder in folders}
    if len(domains) < len(folders):
        raise UserError(
            f"two data sets of one name ({', '.join(names[folder] for folder in folders)}); use a plan file"
        )
    routes = tuple(Route(train=name, away=tuple(other for other in domains if other != name)) for name in domains)
    return _valid({"domains": domains, "routes": routes}, source=", ".join(map(str, folders)))
