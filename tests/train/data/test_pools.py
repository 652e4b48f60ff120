"""Worker processes start with the libraries of their tasks already loaded, and with no others."""

import subprocess
import sys

import pytest

SCRIPT = """
import importlib, sys
from dermnote_train.data.pools import process_pool
importlib.import_module(sys.argv[1])
with process_pool(1) as pool:
    print(pool.submit(eval, "'torch' in __import__('sys').modules").result())
"""


@pytest.mark.parametrize(
    ("module", "loaded"),
    [("dermnote_train.study.cells.frozen", "True"), ("dermnote_train.findings.table", "False")],
)
def test_a_worker_process_starts_with_the_libraries_of_its_task(module: str, loaded: str) -> None:
    command = [sys.executable, "-c", SCRIPT, module]

    assert subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.strip() == loaded
