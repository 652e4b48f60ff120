"""The engine's start: which weights it loads, and its log lines about its model."""

import logging
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dermnote_notegen.engine import build
from dermnote_notegen.engine.build import _log_start, load
from dermnote_notegen.engine.tune.layouts import WeightsFile
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


@pytest.mark.gguf
@pytest.mark.filterwarnings("ignore:llama_token_get_attr is deprecated")
def test_the_original_is_loaded_if_the_converted_file_has_been_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def select(source: WeightsFile, **_: object) -> WeightsFile:
        return replace(source, path=tmp_path / "deleted.gguf", keys="bf16")

    monkeypatch.setattr(build, "select_weights", select)
    with closing(load(Settings(slots=1, context_tokens=256, gpu_layers=0))) as engine:
        assert engine.alive
    assert "runs in its original layout" in caplog.text
