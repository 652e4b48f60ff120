"""A study's plan: reading TOML, and rejecting invalid plans with the known names."""

from pathlib import Path

import pytest

from dermnote_train.errors import UserError
from dermnote_train.study.arms import ARMS
from dermnote_train.study.plan import Domain, Route, StudyPlan, plan_of, read_plan

PLAN = """
[domains.south]
folder = "ham"
[domains.north]
folder = "ham"
where = { dataset = ["rosendahl"] }
[[routes]]
train = "south"
away = ["north"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(text)
    return path


def test_folders_are_relative_to_the_plan(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, PLAN))
    assert plan.domains["north"] == Domain(folder=tmp_path / "ham", where={"dataset": ("rosendahl",)})
    assert plan.routes == (Route(train="south", away=("north",)),)
    assert plan.frozen is not None
    assert plan.frozen.arms == tuple(ARMS)
    assert plan.tuned is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PLAN.replace('away = ["north"]', 'away = ["west"]'), "unknown domain 'west'; known: south, north"),
        (PLAN + '[frozen]\narms = ["image", "P9"]', "unknown arm 'P9'"),
        (PLAN + '[tuned]\narms = ["table"]', "table is supported in the frozen grid only"),
        (PLAN + '[tuned]\nroutes = ["north"]', "no route trains on 'north'"),
        (PLAN + '[[routes]]\ntrain = "south"', "two routes train on the same domain"),
        (PLAN + "[frozen]\nseeds = 0", "frozen.seeds"),
        (PLAN + "sedes = 3", "away.sedes|routes.0.sedes|sedes"),
        (PLAN.replace("domains.south", "domains.val").replace('"south"', '"val"'), "a domain cannot be named 'val'"),
        (
            PLAN.replace("domains.north", 'domains."a/b"').replace('"north"', '"a/b"'),
            "'a/b' names a folder too",
        ),
        ("[domains", "unreadable study plan"),
    ],
)
def test_an_invalid_plan_is_rejected(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_plan(written(tmp_path, text))


def test_a_missing_plan_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unreadable study plan"):
        read_plan(tmp_path / "none.toml")


def test_folders_alone_give_a_plan_in_every_direction() -> None:
    plan = plan_of(Path("a"), (Path("b"),), names={Path("a"): "ham", Path("b"): "pad"})
    assert plan.routes == (Route(train="ham", away=("pad",)), Route(train="pad", away=("ham",)))
    with pytest.raises(UserError, match="a domain cannot be named 'val'"):
        plan_of(Path("a"), (), names={Path("a"): "val"})
    with pytest.raises(UserError, match="two data sets have the same name"):
        plan_of(Path("a"), (Path("b"),), names={Path("a"): "ham", Path("b"): "ham"})


def test_the_tuned_grid_may_have_only_some_routes() -> None:
    plan = StudyPlan.model_validate(
        {
            "domains": {"a": {"folder": "a"}, "b": {"folder": "b"}},
            "routes": [{"train": "a"}, {"train": "b"}],
            "tuned": {"routes": ["b"], "arms": ["image"]},
        }
    )
    assert [route.train for route in plan.routes_of(plan.tuned)] == ["b"]
    assert [route.train for route in plan.routes_of(plan.frozen)] == ["a", "b"]


def test_the_plan_in_the_docs_is_valid() -> None:
    plan = read_plan(Path(__file__).parents[3] / "docs" / "study" / "plan.toml")
    assert [route.train for route in plan.routes] == ["ham10000", "pad_ufes_20", "vienna"]
    assert plan.tuned is not None
    assert plan.tuned.config.image_size == 112


ABLATIONS = (
    PLAN
    + """
[frozen]
arms = ["image", "G"]
[trials]
arms = ["image"]
seeds = 2
[trials.changes.smaller]
image_size = 64
"""
)


def test_an_ablation_is_the_frozen_grid_with_a_change(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, ABLATIONS))
    assert plan.frozen is not None
    assert plan.ablation_grids() == {
        "smaller": plan.frozen.model_copy(update={"arms": ("image",), "seeds": 2, "image_size": 64})
    }
    assert read_plan(written(tmp_path, PLAN)).ablation_grids() == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ABLATIONS.replace("image_size = 64", "image_size = 8"), "image_size"),
        (ABLATIONS.replace("image_size = 64", "imagesize = 64"), "imagesize"),
        (ABLATIONS.replace("image_size = 64", "seeds = 1"), "trials.changes.smaller: seeds cannot be changed"),
        (ABLATIONS.replace("seeds = 2", "seeds = 6"), "at most 5, as in the frozen grid"),
        (ABLATIONS.replace("seeds = 2", 'routes = ["north"]'), "trials.routes: no route trains on 'north'"),
        (ABLATIONS.replace('arms = ["image"]', 'arms = ["M"]'), "M is not in the frozen grid"),
        (ABLATIONS.replace('arms = ["image"]', 'arms = ["P9"]'), "unknown arm 'P9'"),
    ],
)
def test_an_invalid_ablation_is_rejected(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_plan(written(tmp_path, text))
