"""Weights repacked for matrix tiles end the process on some machines: tried apart, and done without there."""

import sys
from pathlib import Path

import pytest

from dermnote_notegen.engine import amx_probe
from dermnote_notegen.engine.amx_probe import cpu_flags, repacking_works, survives
from dermnote_notegen.engine.model import find_weights


@pytest.fixture(autouse=True)
def _asked_anew():
    repacking_works.cache_clear()
    yield
    repacking_works.cache_clear()


def test_a_command_that_ends_by_a_signal_does_not_survive():
    assert survives([sys.executable, "-c", "pass"])
    assert not survives([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"])
    assert not survives([sys.executable, "-c", "raise SystemExit(1)"])


def test_a_command_that_never_ends_does_not_survive(monkeypatch):
    monkeypatch.setattr(amx_probe, "TRIED_FOR_S", 0.2)
    assert not survives([sys.executable, "-c", "import time; time.sleep(60)"])


def test_a_cpu_without_tiles_is_not_tried(monkeypatch):
    monkeypatch.setattr(amx_probe, "cpu_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(amx_probe, "survives", lambda command: pytest.fail(f"tried {command}"))
    assert repacking_works(Path("weights.gguf"))


def test_a_cpu_with_tiles_is_tried_once_with_the_real_weights(monkeypatch):
    monkeypatch.setattr(amx_probe, "cpu_flags", lambda: frozenset({"amx_int8"}))
    tried = []

    def remembered(command):
        tried.append(command)
        return survives(command)

    monkeypatch.setattr(amx_probe, "survives", remembered)
    path = find_weights("smollm2")[1]
    assert repacking_works(path) == repacking_works(path)
    assert len(tried) == 1
    if "amx_int8" not in cpu_flags():
        assert repacking_works(path), "without tiles there is nothing to repack for, and the trial ends well"


def test_weights_that_end_the_trial_are_loaded_without(monkeypatch, caplog):
    monkeypatch.setattr(amx_probe, "cpu_flags", lambda: frozenset({"amx_int8"}))
    monkeypatch.setattr(amx_probe, "survives", lambda _: False)
    assert not repacking_works(Path("weights.gguf"))
    assert "computes without them" in caplog.text
