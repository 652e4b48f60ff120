"""The RQ task: queued jobs find it by name, and importing it builds nothing."""

import subprocess
import sys

from rq.utils import import_attribute

from dermnote_notegen.queue.rq_queue import TASK
from dermnote_notegen.worker.writer import write_note


def test_queued_jobs_name_the_task() -> None:
    assert TASK == "dermnote_notegen.worker.write_note"  # jobs of earlier versions carry this name
    assert import_attribute(TASK) is write_note


def test_importing_the_worker_builds_no_runtime() -> None:
    code = "import dermnote_notegen.worker.writer as t; assert t.process_runtime.cache_info().currsize == 0"

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
