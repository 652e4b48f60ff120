"""What the engine's start says of its model."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from dermnote_notegen.engine.build import _tell
from dermnote_notegen.settings import Settings

ENGINE: Any = SimpleNamespace(info=lambda: {"engine": "llama", "shares_prefixes": False})


def told(caplog: pytest.LogCaptureFixture, *, unshared: str | None = None, window: int = 0) -> dict[str, int]:
    """What is logged of such weights: line -> level."""
    weights: Any = SimpleNamespace(unshared_memory=unshared, window=window, trained_context=8192, gpu_layers=0)
    with caplog.at_level(logging.INFO):
        _tell(ENGINE, weights, Settings())
    return {record.getMessage(): record.levelno for record in caplog.records}


def test_a_memory_that_can_not_be_shared_is_a_warning_that_says_why(caplog: pytest.LogCaptureFixture) -> None:
    lines = told(caplog, unshared="its memory is recurrent: a state can't be cut at a prefix")

    (warning,) = [line for line, level in lines.items() if level == logging.WARNING]
    assert "not shared" in warning
    assert "recurrent" in warning


def test_a_sliding_window_is_told(caplog: pytest.LogCaptureFixture) -> None:
    lines = told(caplog, window=512)

    assert any("512 tokens" in line for line in lines)
    assert set(lines.values()) == {logging.INFO}


def test_of_plain_attention_nothing_is_said_but_what_runs(caplog: pytest.LogCaptureFixture) -> None:
    assert list(told(caplog)) == ["engine llama, shares_prefixes False"]
