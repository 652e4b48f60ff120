"""AMX weights crash on some machines: they are probed in a child process and disabled if it dies."""

import sys
from pathlib import Path

import pytest

from dermnote_notegen.engine import amx_probe
from dermnote_notegen.engine.amx_probe import repacking_works, succeeds
from dermnote_notegen.engine.llama import cpu_flags
from dermnote_notegen.engine.model import find_weights


def test_a_command_killed_by_a_signal_fails():
    assert succeeds([sys.executable, "-c", "pass"])
    assert not succeeds([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"])
    assert not succeeds([sys.executable, "-c", "raise SystemExit(1)"])


def test_a_command_that_hangs_fails(monkeypatch):
    monkeypatch.setattr(amx_probe, "TIMEOUT_S", 0.2)
    assert not succeeds([sys.executable, "-c", "import time; time.sleep(60)"])


def test_a_cpu_without_amx_is_not_probed(monkeypatch):
    monkeypatch.setattr(amx_probe, "cpu_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(amx_probe, "succeeds", lambda command: pytest.fail(f"ran {command}"))
    assert repacking_works(Path("weights.gguf"))


@pytest.mark.gguf
def test_a_cpu_with_amx_is_probed_with_the_real_weights(monkeypatch):
    monkeypatch.setattr(amx_probe, "cpu_flags", lambda: frozenset({"amx_int8"}))
    commands = []

    def record(command):
        commands.append(command)
        return succeeds(command)

    monkeypatch.setattr(amx_probe, "succeeds", record)
    path = find_weights("smollm2")[1]
    works = repacking_works(path)
    assert [command[-1] for command in commands] == [str(path)]
    if "amx_int8" not in cpu_flags():
        assert works, "without AMX there is nothing to repack for, and the probe succeeds"


def test_weights_that_crash_the_probe_are_not_repacked(monkeypatch, caplog):
    monkeypatch.setattr(amx_probe, "cpu_flags", lambda: frozenset({"amx_int8"}))
    monkeypatch.setattr(amx_probe, "succeeds", lambda _: False)
    assert not repacking_works(Path("weights.gguf"))
    assert "does not repack them" in caplog.text
