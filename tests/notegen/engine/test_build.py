"""The engine's log lines about its model at start."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from dermnote_notegen.engine.build import _log_start
from dermnote_notegen.settings import Settings

ENGINE: Any = SimpleNamespace(info=lambda: {"engine": "llama", "shares_prefixes": False})


def logged(caplog: pytest.LogCaptureFixture, *, no_sharing: str | None = None, window: int = 0) -> dict[str, int]:
    """The log of a start with such weights: line -> level."""
    weights: Any = SimpleNamespace(no_sharing_reason=no_sharing, window=window, trained_context=8192, gpu_layers=0)
    with caplog.at_level(logging.INFO):
        _log_start(ENGINE, weights, Settings())
    return {record.getMessage(): record.levelno for record in caplog.records}


def test_a_model_that_cannot_share_prefixes_logs_a_warning_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    lines = logged(caplog, no_sharing="the model's memory is recurrent: a state cannot be cut at a prefix")

    (warning,) = [line for line, level in lines.items() if level == logging.WARNING]
    assert "not shared" in warning
    assert "recurrent" in warning


def test_a_sliding_window_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    lines = logged(caplog, window=512)

    assert any("512 tokens" in line for line in lines)
    assert set(lines.values()) == {logging.INFO}


def test_a_model_with_plain_attention_logs_its_info_only(caplog: pytest.LogCaptureFixture) -> None:
    assert list(logged(caplog)) == ["engine llama, shares_prefixes False"]
