"""Study folders and training runs of version 0.1.0 still load, with equal values, and their cells are still reused.

The files in study-0.1.0/ were written by that version from the inputs below. Of the two large safetensors files of a
training run only the layout (metadata, tensor names, types and shapes) is stored; the tests fill it with random values.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.config import TrainConfig
from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.models import checkpoint
from dermnote_train.models.checkpoint import CHECKPOINT_NAME, build_model, load_checkpoint, read_state
from dermnote_train.models.run_folder import RunData, read_run_data, read_run_split
from dermnote_train.models.towers import lite, weights_hash
from dermnote_train.study.analysis.export import write_results
from dermnote_train.study.analysis.figures import compute_results
from dermnote_train.study.arms import NOTE_SETS
from dermnote_train.study.cells import outputs
from dermnote_train.study.cells.frozen import FrozenCell
from dermnote_train.study.cells.outputs import CellOutputs, read_cell, reusable_facts, write_cell
from dermnote_train.study.cells.tuned import RunRecord, TunedCell, _read_finished_run
from dermnote_train.study.plan import StudyPlan, read_plan
from dermnote_train.training import resume
from dermnote_train.training.resume import RunState, load_state, run_key

OLD = Path(__file__).with_name("study-0.1.0")
EXPECTED = json.loads((OLD / "expected.json").read_text())
CLASSES = ("NEV", "MEL")


def records(part: str, count: int) -> tuple[Record, ...]:
    return tuple(
        Record(
            f"{part}-{row}",
            Path(f"{row}.jpg"),
            f"{part}{row // 2}",
            CLASSES[row // 2 % 2],
            LesionMetadata(age=20 + row, sex="male"),
        )
        for row in range(count)
    )


SPLIT = Split(train=records("train", 24), val=records("val", 8), test=records("test", 8), seed=0)
AWAY = records("away", 24)
HOME = (*SPLIT.train, *SPLIT.val, *SPLIT.test)
SETS = {name: {one.image_id: f"{name} of {one.image_id}" for one in (*HOME, *AWAY)} for name in NOTE_SETS}
INPUTS: dict[str, Any] = {
    "route": "toy",
    "dataset": LesionDataset("toy", HOME, classes=CLASSES, licence="-", synthetic=True),
    "split": SPLIT,
    "pools": {"val": SPLIT.val, "home": SPLIT.test, "other": AWAY},
    "sets": SETS,
    "classes": CLASSES,
    "image_hashes": {one.image_id: f"sha of {one.image_id}" for one in (*HOME, *AWAY)},
}


@pytest.fixture(autouse=True)
def _same_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests cover library versions, which may have changed since the files were written."""
    monkeypatch.setattr(outputs, "version", EXPECTED["versions"].__getitem__)
    monkeypatch.setattr(resume.torch, "__version__", EXPECTED["torch"])


@pytest.fixture
def plan() -> StudyPlan:
    return read_plan(OLD / "plan.toml")


def frozen_cells(plan: StudyPlan) -> list[FrozenCell]:
    assert plan.frozen is not None
    cells = [
        FrozenCell(**INPUTS, arm=arm, seed=seed, grid=plan.frozen)
        for arm in plan.frozen.arms
        for seed in range(plan.frozen.seeds)
    ]
    inputs = INPUTS | {"pools": {"val": SPLIT.val}}
    return [
        *cells,
        FrozenCell(**inputs, arm="image", seed=0, grid=plan.ablation_grids()["larger"], ablation="larger"),
    ]


def test_a_plan_is_read(plan: StudyPlan) -> None:
    assert plan.domains["other"].where == {"site": ("north", "south")}
    assert plan.ablations is not None
    grids = {"frozen": plan.frozen, "tuned": plan.tuned, "trials": plan.ablations, **plan.ablation_grids()}
    for name, stored in EXPECTED["grids"].items():
        assert type(grids[name]).model_validate_json(stored).model_dump_json() == stored
        if name != "trials":
            assert grids[name].model_dump_json() == stored, "part of the digests of cells"


def test_unchanged_cells_are_reused(plan: StudyPlan) -> None:
    cells = frozen_cells(plan)
    assert {cell.path: cell.digest("k") for cell in cells} == EXPECTED["digests"]
    for cell in cells:
        facts = reusable_facts(OLD / "cells" / cell.path, digest=cell.digest("k"))
        assert facts is not None, cell.path
        assert (facts.grid, facts.route, facts.arm, facts.seed) == (cell.grid_name, "toy", cell.arm, cell.seed)
        changed = replace(cell, classes=("MEL", "NEV"))
        assert reusable_facts(OLD / "cells" / cell.path, digest=changed.digest("k")) is None


def test_features_are_still_found_in_the_cache() -> None:
    """File names of cached features, and the digests of cells, contain the hashes of the towers."""
    towers = lite(image_size=32)
    assert {"text_id": towers.text_id, "tower_id": weights_hash(towers.visual)} == EXPECTED["ids"]


def old_cells(plan: StudyPlan) -> dict[str, CellOutputs]:
    return {cell.path: read_cell(OLD / "cells" / cell.path) for cell in frozen_cells(plan)}


def test_cells_are_read_with_equal_values(plan: StudyPlan, tmp_path: Path) -> None:
    by_arm = {f"{one.facts.arm}{one.facts.seed}": one for one in old_cells(plan).values() if one.facts.grid == "frozen"}
    for name, facts in EXPECTED["facts"].items():
        assert json.loads(by_arm[name].facts.model_dump_json(exclude={"seconds"})) == facts
    for name, sums in EXPECTED["sums"].items():
        assert {pool: float(one.image.astype(float).sum()) for pool, one in by_arm[name].pools.items()} == sums
    assert set(by_arm["G0"].pools["other"].logits) == {"image", "note", "both", "prompts"}
    path = "cells/frozen/toy/G/seed0.safetensors"
    write_cell(tmp_path / "cell", by_arm["G0"])
    assert (tmp_path / "cell").read_bytes() == (OLD / path).read_bytes(), "the format is unchanged"


def test_results_from_old_cells_are_unchanged(plan: StudyPlan, tmp_path: Path) -> None:
    """figures.json and every CSV file: same keys, columns, order and values."""
    cells = list(old_cells(plan).values())
    results = compute_results(
        [cell for cell in cells if cell.facts.grid == "frozen"],
        pools={"toy": HOME, "other": AWAY},
        resamples=200,
        ablations=[cell for cell in cells if cell.facts.grid != "frozen"],
    )
    write_results(tmp_path, results)
    names = {path.name for path in (OLD / "results").iterdir()}
    assert names == {path.name for path in tmp_path.iterdir()}
    assert len(names) == 6
    for name in sorted(names):
        assert (tmp_path / name).read_text() == (OLD / "results" / name).read_text(), name


def test_a_finished_tuned_run_is_reused(plan: StudyPlan, tmp_path: Path) -> None:
    assert plan.tuned is not None
    for arm, expected in EXPECTED["tuned"].items():
        cell = TunedCell(**INPUTS, arm=arm, seed=0, grid=plan.tuned)
        assert {"training_digest": cell.training_digest(), "digest": cell.digest()} == expected
    shutil.copytree(OLD / "runs", tmp_path / "runs")
    run_dir = tmp_path / "runs" / "toy" / "G" / "seed0"
    (run_dir / CHECKPOINT_NAME).write_bytes(b"weights")
    record = _read_finished_run(run_dir, TunedCell(**INPUTS, arm="G", seed=0, grid=plan.tuned))
    assert record == RunRecord(digest=EXPECTED["tuned"]["G"]["training_digest"], epoch=2, loss=0.25, seconds=1.5)


def write_from_layout(path: Path, name: str) -> dict[str, torch.Tensor]:
    """A safetensors file with an old file's metadata and tensor layout, and random values."""
    layout = json.loads((OLD / "run" / f"{name}.layout.json").read_text())
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.rand(shape, generator=generator).to(getattr(torch, dtype))
        for name, (dtype, shape) in layout["tensors"].items()
    }
    if "generator" in tensors:
        tensors["generator"] = torch.Generator().manual_seed(7).get_state()
    save_file(tensors, path, metadata=layout["metadata"])
    return tensors


def run_records(part: str, each: int) -> tuple[Record, ...]:
    return tuple(
        Record(f"{part}-{label}-{n}", Path(f"{n}.png"), f"g-{part}-{label}-{n}", label, LesionMetadata())
        for n in range(each)
        for label in ("red", "blue")
    )


RUN_SPLIT = Split(train=run_records("train", 6), val=run_records("val", 2), test=run_records("test", 2), seed=0)
RUN_NOTES = {one.image_id: f"a {one.label} lesion of patient {one.image_id}" for one in RUN_SPLIT.train}
RUN_CONFIG = TrainConfig(image_size=32, epochs=2, batch_size=4, tuned="none", head_lr=3e-3, device="cpu", save_every=1)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    shutil.copytree(OLD / "run", tmp_path / "run")
    return tmp_path / "run"


def test_a_run_folder_is_read(run_dir: Path) -> None:
    tensors = write_from_layout(run_dir / CHECKPOINT_NAME, "model")
    everything = (*RUN_SPLIT.train, *RUN_SPLIT.val, *RUN_SPLIT.test)
    dataset = LesionDataset("drawn", everything, classes=("red", "blue"), licence="CC0-1.0", synthetic=True)
    assert read_run_data(run_dir) == RunData(
        dataset="drawn", classes=("red", "blue"), class_set="paper5", synthetic=True, strategy="G"
    )
    split = read_run_split(run_dir, dataset)
    assert {part: {one.image_id for one in getattr(split, part)} for part in ("train", "val", "test")} == {
        part: {one.image_id for one in getattr(RUN_SPLIT, part)} for part in ("train", "val", "test")
    }
    model = load_checkpoint(run_dir, split=split)
    assert (model.classes, model.with_notes) == (("red", "blue"), True)
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in read_state(run_dir / CHECKPOINT_NAME).items())
    assert read_state(run_dir / CHECKPOINT_NAME).keys() == tensors.keys() == checkpoint.learned_state(model).keys()


def test_an_interrupted_run_is_resumed(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images are small, so version 0.1.0 decoded them to the same pixels."""
    monkeypatch.chdir(tmp_path)
    for record in (*RUN_SPLIT.train, *RUN_SPLIT.val):
        Image.new("RGB", (48, 48)).save(record.image_path)
    tensors = write_from_layout(run_dir / resume.RESUME_NAME, "resume")
    key = run_key(RUN_CONFIG, split=RUN_SPLIT, classes=("red", "blue"), notes=RUN_NOTES, processes=1)
    assert key == EXPECTED["run_key"]
    model = build_model(RUN_CONFIG, classes=("red", "blue"), with_notes=True)
    optimiser = torch.optim.Adam(model.head.parameters(), amsgrad=True)
    with torch.random.fork_rng(devices=[]):
        state = load_state(run_dir, key=key, model=model, optimiser=optimiser)
        assert torch.equal(torch.get_rng_state(), tensors["generator"])
    assert isinstance(state, RunState)
    assert (state.epoch, len(state.terms), len(state.history)) == (2, 2, 1)
    assert torch.equal(model.head.shared.weight.detach(), tensors["model/head.shared.weight"])
    moments = optimiser.state_dict()["state"]
    assert torch.equal(moments[0]["exp_avg_sq"], tensors["optimiser/0/exp_avg_sq"])
