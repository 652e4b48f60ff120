"""Frozen cells made side by side in processes of their own: one core each, since their steps are small."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

from dermnote_train.study.cells.frozen import Features, FrozenCell, make_cell
from dermnote_train.study.cells.outputs import CellFacts, write_cell

_features: list[Features] = []
"""Of this process: sent once, not with every cell."""


def make_cells(
    cells: Sequence[FrozenCell],
    *,
    features: Features,
    folder: Path,
    enough: Callable[[], bool],
    jobs: int | None = None,
) -> Iterator[CellFacts]:
    """The facts of each cell as it is done and its file written below `folder`; none is begun once `enough()`.

    jobs: processes, by default a core each.
    """
    jobs = min(jobs or len(os.sched_getaffinity(0)), max(len(cells), 1))
    waiting = iter(cells)
    # Not forked: a fork copies the locks of the libraries' threads as they stand.
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("forkserver"), initializer=_keep, initargs=(features,)
    ) as processes:
        working: set[Future[CellFacts]] = set()
        while True:
            while len(working) < jobs and not enough() and (cell := next(waiting, None)) is not None:
                working.add(processes.submit(_make, cell, folder / cell.path))
            if not working:
                return
            done, working = wait(working, return_when=FIRST_COMPLETED)
            for one in done:
                yield one.result()


def _keep(features: Features) -> None:
    _features[:] = [features]


def _make(cell: FrozenCell, path: Path) -> CellFacts:
    made = make_cell(cell, features=_features[0])
    write_cell(path, made)
    return made.facts
