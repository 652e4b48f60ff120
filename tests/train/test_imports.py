"""Importing the package has no side effects on the process."""

import json
import subprocess
import sys

SCRIPT = """
import importlib, json, logging, os, pkgutil, signal, sys, warnings
import torch

def state():
    return {
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "signals": [str(signal.getsignal(signal.SIGINT)), str(signal.getsignal(signal.SIGTERM))],
        "log level": logging.getLogger().level,
        "threads": torch.get_num_threads(),
    }

import dermnote_train
before = state()
names = [module.name for module in pkgutil.walk_packages(dermnote_train.__path__, "dermnote_train.")]
for name in names:
    importlib.import_module(name)
print(json.dumps({"modules": len(names), "before": before, "after": state()}))
"""


def test_importing_every_module_changes_neither_the_environment_nor_process_globals() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300, check=True)
    report = json.loads(result.stdout.splitlines()[-1])

    assert report["modules"] > 90
    assert report["after"] == report["before"]
