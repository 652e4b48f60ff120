"""Pools of worker processes, for work on many images."""

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

# Modules with the functions that worker processes run.
TASKS = ("dermnote_train.findings.table", "dermnote_train.study.cells.frozen")


def process_pool(
    processes: int, *, initializer: Callable[..., None] | None = None, initargs: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """A pool whose processes are forked from a server that has already loaded the libraries of this process's tasks.

    They are not forked from this process, since fork would copy locks that library threads hold at that moment, and
    nothing would release the copies.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload([name for name in TASKS if name in sys.modules])
    return ProcessPoolExecutor(processes, mp_context=context, initializer=initializer, initargs=initargs)
