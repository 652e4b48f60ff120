"""Computes frozen cells in parallel processes with one thread each, since the training steps are small."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

import torch

from dermnote_train.study.cells.frozen import Features, FrozenCell, compute_frozen_cell
from dermnote_train.study.cells.outputs import CellFacts, write_cell

_features: list[Features] = []
"""The features of this worker process: sent once, not with every cell."""


def compute_cells(
    cells: Sequence[FrozenCell],
    *,
    features: Features,
    folder: Path,
    should_stop: Callable[[], bool],
    processes: int | None = None,
) -> Iterator[CellFacts]:
    """Write each cell's file below `folder` and yield its metadata; starts no more cells once `should_stop()`.

    processes: by default one per core.
    """
    processes = min(processes or len(os.sched_getaffinity(0)), max(len(cells), 1))
    pending = iter(cells)
    # Not fork, which copies the locks of library threads in their current state.
    with ProcessPoolExecutor(
        processes, mp_context=get_context("forkserver"), initializer=_initialise, initargs=(features,)
    ) as pool:
        running: set[Future[CellFacts]] = set()
        while True:
            while len(running) < processes and not should_stop() and (cell := next(pending, None)) is not None:
                running.add(pool.submit(_compute, cell, folder / cell.path))
            if not running:
                return
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for one in finished:
                yield one.result()


def _initialise(features: Features) -> None:
    torch.set_num_threads(1)  # small steps: more threads would wait for each other
    _features[:] = [features]


def _compute(cell: FrozenCell, path: Path) -> CellFacts:
    outputs = compute_frozen_cell(cell, features=_features[0])
    write_cell(path, outputs)
    return outputs.facts
