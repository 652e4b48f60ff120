"""Importing a package has no side effects on the process."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import importlib, json, logging, os, pkgutil, signal, sys
package = importlib.import_module(sys.argv[1])
if package.__name__ == "dermnote_train":
    import torch

# Set by FAISS and PyTorch (OpenMP), by PyTorch, and by open_clip when they are imported.
THIRD_PARTY = ("KMP_", "TORCHINDUCTOR_", "TOKENIZERS_PARALLELISM")

def state():
    return {
        "environment": {name: value for name, value in os.environ.items() if not name.startswith(THIRD_PARTY)},
        "directory": os.getcwd(),
        "signals": [str(signal.getsignal(signal.SIGINT)), str(signal.getsignal(signal.SIGTERM))],
        "log level": logging.getLogger().level,
        "log handlers": len(logging.getLogger().handlers),
        "threads": sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None,
    }

before = state()
names = [module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
    if "torch" in sys.modules and before["threads"] is None:
        before["threads"] = state()["threads"]
print(json.dumps({"modules": len(names), "before": before, "after": state()}))
"""
MODULES = {
    "dermnote_contracts": 8,
    "dermnote_http": 7,
    "dermnote_imaging": 2,
    "dermnote_notegen": 45,
    "dermnote_retrieval": 39,
    "dermnote_train": 90,
}


@pytest.mark.parametrize("package", MODULES)
def test_importing_every_module_changes_neither_the_environment_nor_process_globals(package: str) -> None:
    command = [sys.executable, "-c", SCRIPT, package]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    report = json.loads(result.stdout.splitlines()[-1])

    assert report["modules"] >= MODULES[package]
    assert report["after"] == report["before"]
