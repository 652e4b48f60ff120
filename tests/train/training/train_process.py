"""python train_process.py TASK: trains as described by a pickled task, in a separate process that can be killed.

The path of the task is the argument, or the global TASK if `runpy` runs this file.
"""

import json
import os
import pickle
import signal
import sys
from pathlib import Path

import torch

from dermnote_train.progress import Step
from dermnote_train.training.distributed import process_group
from dermnote_train.training.train import train


def main(path: Path) -> None:
    """The task: the arguments of `train`, and `killed_at`, the batch after which the process kills itself."""
    task = pickle.loads(path.read_bytes())  # noqa: S301 (a test's own file)
    killed_at = task.pop("killed_at")
    torch.set_num_threads(1)
    batches = 0

    def report(step: Step) -> None:
        nonlocal batches
        batches += step.stage.startswith("epoch")
        if batches == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    with process_group() as group:
        result = train(task.pop("config"), **task, group=group, progress=report)
        if group.is_main:
            losses = [row.loss for row in result.history]
            (task["run_dir"] / "losses.json").write_text(json.dumps({"losses": losses, "batches": batches}))


if __name__ == "__main__":
    main(globals().get("TASK") or Path(sys.argv[1]))
