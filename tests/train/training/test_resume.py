"""Training resumes exactly after a kill at any step, and several processes train like one."""

import json
import multiprocessing
import os
import pickle
import runpy
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dermnote_train.config import TrainConfig
from dermnote_train.data.records import Split
from dermnote_train.training.resume import RESUME_NAME, run_key
from dermnote_train.training.train import train

SCRIPT = Path(__file__).with_name("train_process.py")
# Forks each process from one that has loaded torch already.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["dermnote_train.training.train"])


@dataclass(frozen=True)
class Task:
    """`killed_at`: the batch, counted over all epochs, after which the process kills itself."""

    config: TrainConfig
    split: Split
    classes: tuple[str, ...]
    notes: dict[str, str] | None
    run_dir: Path
    killed_at: int | None = None


@pytest.fixture
def task(toy_config: TrainConfig, toy_split: Split, toy_notes: dict[str, str], tmp_path: Path) -> Task:
    """Also trains the image tower's last stages; 3 batches per epoch, with the state saved after each."""
    config = toy_config.model_copy(update={"tuned": "last", "epochs": 2, "save_every": 1})
    return Task(config, toy_split, ("red", "green", "blue"), toy_notes, tmp_path / "run")


def run(task: Task, *, processes: int = 1) -> int:
    """The exit status of training in a process that can be killed, or in several."""
    task.run_dir.mkdir(parents=True, exist_ok=True)
    path = task.run_dir / "task.pickle"
    path.write_bytes(pickle.dumps(vars(task)))
    if processes == 1:
        child = FORKSERVER.Process(target=runpy.run_path, args=(str(SCRIPT), {"TASK": path}, "__main__"))
        child.start()
        child.join(300)
        assert child.exitcode is not None, "training did not end"
        return child.exitcode
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *torchrun, str(SCRIPT), str(path)]
    environment = os.environ | {"TMPDIR": str(task.run_dir)}  # torchrun leaves files there
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=300)
    print(done.stderr)
    return done.returncode


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "model.safetensors")


def measured(run_dir: Path) -> dict[str, list[float]]:
    return json.loads((run_dir / "losses.json").read_text())


def test_a_run_that_is_killed_repeatedly_ends_with_identical_weights(task: Task, tmp_path: Path) -> None:
    """Six batches in two epochs; each process is killed after its second batch, once between epoch end and save."""
    whole = replace(task, run_dir=tmp_path / "whole")
    assert run(whole) == 0
    kills = 0
    while run(replace(task, killed_at=2)) == -signal.SIGKILL:
        kills += 1
        assert kills < 6, "the run does not finish"
    assert kills == 3
    ours, theirs = weights(task.run_dir), weights(whole.run_dir)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert measured(task.run_dir)["losses"] == measured(whole.run_dir)["losses"]
    assert measured(task.run_dir)["batches"] == 1, "it resumed instead of starting from scratch"
    assert not (task.run_dir / RESUME_NAME).exists()


def test_a_state_of_other_settings_is_not_resumed(task: Task, caplog: pytest.LogCaptureFixture) -> None:
    assert run(replace(task, killed_at=4)) == -signal.SIGKILL
    other = task.config.model_copy(update={"head_lr": 1e-4})
    result = train(other, split=task.split, classes=task.classes, notes=task.notes, run_dir=task.run_dir)
    assert "starting from scratch" in caplog.text
    assert len(result.history) == 2


def test_a_state_of_other_labels_is_not_resumed(task: Task) -> None:
    """The same images in the same parts, one of them with another label."""
    first, *others = task.split.train
    relabelled = replace(task.split, train=(replace(first, label="blue"), *others))
    keys = {
        run_key(task.config, split=split, classes=task.classes, notes=task.notes, processes=1)
        for split in (task.split, relabelled)
    }
    assert first.label != "blue"
    assert len(keys) == 2


def test_a_state_of_other_pixels_is_not_resumed(task: Task) -> None:
    """Version 0.1.0 decoded images over 512 pixels otherwise; the key of smaller ones is unchanged."""

    def key() -> str:
        return run_key(task.config, split=task.split, classes=task.classes, notes=task.notes, processes=1)

    small = key()
    path = task.split.val[0].image_path
    Image.open(path).resize((512, 300)).save(path)
    assert key() == small
    Image.open(path).resize((600, 450)).save(path)
    assert key() != small


def test_a_damaged_state_is_not_resumed(task: Task, caplog: pytest.LogCaptureFixture) -> None:
    task.run_dir.mkdir()
    (task.run_dir / RESUME_NAME).write_bytes(b"torn")
    train(task.config, split=task.split, classes=task.classes, notes=task.notes, run_dir=task.run_dir)
    assert "damaged" in caplog.text


def test_two_processes_have_the_same_losses_as_one(task: Task, tmp_path: Path) -> None:
    """The same global batch, with an odd one at the end of each epoch; NT-Xent uses negatives of both processes."""
    config = task.config.model_copy(update={"batch_size": 7})
    one, two = (replace(task, config=config, run_dir=tmp_path / name) for name in ("one", "two"))
    assert run(one) == 0
    assert run(two, processes=2) == 0
    assert measured(two.run_dir)["losses"] == pytest.approx(measured(one.run_dir)["losses"], abs=1e-4)


def test_gradients_accumulate_over_batches(task: Task) -> None:
    """Without NT-Xent the loss is a mean over images: two batches of 4 give the step of one batch of 8."""
    losses = task.config.losses.model_copy(update={"nt_xent": 0.0})
    common = {"losses": losses, "epochs": 1, "tuned": "none"}
    whole = task.config.model_copy(update=common | {"batch_size": 8})
    parts = task.config.model_copy(update=common | {"batch_size": 4, "accumulate": 2})
    heads = [
        train(config, split=task.split, classes=task.classes, notes=task.notes, run_dir=task.run_dir / name).model.head
        for name, config in (("whole", whole), ("parts", parts))
    ]
    for ours, theirs in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_tensorboard_has_every_epoch(task: Task) -> None:
    train(
        task.config,
        split=task.split,
        classes=task.classes,
        notes=task.notes,
        run_dir=task.run_dir,
        tensorboard=True,
    )
    events = EventAccumulator(str(task.run_dir / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("val_ce")] == [1, 2]
