"""Cores available to this process: CPU affinity and container limit."""

import os
from pathlib import Path

import pytest

from dermnote_contracts.cpu import usable_cores

BOUND = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node with 64 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def v2(folder: Path, text: str) -> Path:
    (folder / "cpu.max").write_text(text)
    return folder


def v1(folder: Path, *, quota: int, period: int = 100_000) -> Path:
    (folder / "cpu").mkdir()
    (folder / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu" / "cpu.cfs_period_us").write_text(f"{period}\n")
    return folder


def test_without_cgroups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == BOUND


def test_a_system_without_affinity_has_all_its_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)

    assert usable_cores(tmp_path / "no cgroups") == 6


@pytest.mark.parametrize(
    ("text", "cores"), [("400000 100000\n", 4), ("150000 100000\n", 2), ("10000 100000\n", 1), ("max 100000\n", 64)]
)
@pytest.mark.usefixtures("many_cores")
def test_cgroup_v2_limit(tmp_path: Path, text: str, cores: int) -> None:
    assert usable_cores(v2(tmp_path, text)) == cores


@pytest.mark.parametrize(("quota", "cores"), [(400_000, 4), (50_000, 1), (-1, 64)])
@pytest.mark.usefixtures("many_cores")
def test_cgroup_v1_limit(tmp_path: Path, quota: int, cores: int) -> None:
    assert usable_cores(v1(tmp_path, quota=quota)) == cores


def test_a_limit_above_the_affinity_has_no_effect(tmp_path: Path) -> None:
    assert usable_cores(v2(tmp_path, f"{(BOUND + 8) * 100_000} 100000")) == BOUND


@pytest.mark.parametrize("text", ["", "many few", "1 0"])
def test_an_unreadable_limit_is_ignored(tmp_path: Path, text: str) -> None:
    assert usable_cores(v2(tmp_path, text)) == BOUND
