"""A study's plan: read from TOML, refused with the names that it could have meant, cut down to what is asked."""

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


def test_a_plan_finds_its_folders_from_where_it_lies(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, PLAN))
    assert plan.domains["north"] == Domain(folder=tmp_path / "ham", where={"dataset": ("rosendahl",)})
    assert plan.routes == (Route(train="south", away=("north",)),)
    assert plan.frozen is not None
    assert plan.frozen.arms == tuple(ARMS)
    assert plan.tuned is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PLAN.replace('away = ["north"]', 'away = ["west"]'), "no domain 'west'; there are south, north"),
        (PLAN + '[frozen]\narms = ["image", "P9"]', "no arm 'P9'"),
        (PLAN + '[tuned]\narms = ["table"]', "table is an arm of the frozen grid only"),
        (PLAN + '[tuned]\nroutes = ["north"]', "no route trains on 'north'"),
        (PLAN + '[[routes]]\ntrain = "south"', "two routes train on the same domain"),
        (PLAN + "[frozen]\nseeds = 0", "frozen.seeds"),
        (PLAN + "sedes = 3", "away.sedes|routes.0.sedes|sedes"),
        (PLAN.replace("domains.south", "domains.val").replace('"south"', '"val"'), "no domain can be named 'val'"),
        (PLAN.replace("domains.north", 'domains."a/b"').replace('"north"', '"a/b"'), "'a/b' names a folder too"),
        ("[domains", "no study plan that can be read"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_plan(written(tmp_path, text))


def test_a_plan_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study plan"):
        read_plan(tmp_path / "none.toml")


def test_folders_alone_are_a_plan_of_every_direction() -> None:
    plan = plan_of(Path("a"), (Path("b"),), names={Path("a"): "ham", Path("b"): "pad"})
    assert plan.routes == (Route(train="ham", away=("pad",)), Route(train="pad", away=("ham",)))
    with pytest.raises(UserError, match="no domain can be named 'val'"):
        plan_of(Path("a"), (), names={Path("a"): "val"})
    with pytest.raises(UserError, match="two data sets of one name"):
        plan_of(Path("a"), (Path("b"),), names={Path("a"): "ham", Path("b"): "ham"})


def test_the_tuned_grid_may_be_of_some_routes_only() -> None:
    plan = StudyPlan.model_validate(
        {
            "domains": {"a": {"folder": "a"}, "b": {"folder": "b"}},
            "routes": [{"train": "a"}, {"train": "b"}],
            "tuned": {"routes": ["b"], "arms": ["image"]},
        }
    )
    assert [route.train for route in plan.routes_of(plan.tuned)] == ["b"]
    assert [route.train for route in plan.routes_of(plan.frozen)] == ["a", "b"]


def test_the_plan_that_the_docs_show_is_one() -> None:
    plan = read_plan(Path(__file__).parents[2] / "docs" / "study" / "plan.toml")
    assert [route.train for route in plan.routes] == ["ham10000", "pad_ufes_20", "vienna"]
    assert plan.tuned is not None
    assert plan.tuned.config.image_size == 112


TRIALS = (
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


def test_a_trial_is_the_frozen_grid_with_a_change(tmp_path: Path) -> None:
    plan = read_plan(written(tmp_path, TRIALS))
    assert plan.frozen is not None
    assert plan.tried() == {
        "smaller": plan.frozen.model_copy(update={"arms": ("image",), "seeds": 2, "image_size": 64})
    }
    assert read_plan(written(tmp_path, PLAN)).tried() == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (TRIALS.replace("image_size = 64", "image_size = 8"), "image_size"),
        (TRIALS.replace("image_size = 64", "imagesize = 64"), "imagesize"),
        (TRIALS.replace("image_size = 64", "seeds = 1"), "trials.changes.smaller: seeds can't be changed"),
        (TRIALS.replace("seeds = 2", "seeds = 6"), "the frozen grid has 5 only"),
        (TRIALS.replace("seeds = 2", 'routes = ["north"]'), "trials.routes: no route trains on 'north'"),
        (TRIALS.replace('arms = ["image"]', 'arms = ["M"]'), "M is no arm of the frozen grid"),
        (TRIALS.replace('arms = ["image"]', 'arms = ["P9"]'), "no arm 'P9'"),
    ],
)
def test_a_trial_that_cannot_be_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_plan(written(tmp_path, text))
