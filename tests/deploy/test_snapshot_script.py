"""The script of the nightly snapshot job, run against a real retrieval service with keys."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from dermnote_http.keys import add_key
from dermnote_train.remote.retrieval import RetrievalService
from tests.e2e.conftest import ROOT
from tests.train.servers import retrieval_service

SCRIPT = ROOT / "k8s" / "base" / "snapshot.py"


@pytest.fixture
def key(tmp_path: Path) -> str:
    return add_key(tmp_path / "keys.txt", "snapshots")


@pytest.fixture
def url(tmp_path: Path, key: str) -> Iterator[str]:
    with retrieval_service(tmp_path / "data", keys_file=tmp_path / "keys.txt") as address:
        yield address


def run(url: str, key_file: Path, *, keep: int = 2) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RETRIEVAL_URL": url, "KEY_FILE": str(key_file), "KEEP": str(keep)}
    return subprocess.run(
        [sys.executable, SCRIPT], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_newest_snapshots_are_kept(url: str, key: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{key}\n")

    said = [run(url, tmp_path / "key") for _ in range(4)]

    assert [one.returncode for one in said] == [0] * 4, said[-1].stderr
    taken = [one.stdout.splitlines()[0].removeprefix("taken: ") for one in said]
    with RetrievalService(url, key=SecretStr(key)) as service:
        assert {snapshot.id for snapshot in service.snapshots()} == set(taken[2:])
    assert [one.stdout.splitlines()[1:] for one in said] == [[], [], [f"deleted: {taken[0]}"], [f"deleted: {taken[1]}"]]


def test_a_wrong_key_fails_with_the_error(url: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("dn_wrong")

    said = run(url, tmp_path / "key")

    assert said.returncode == 1
    assert "401" in said.stderr
    assert "dn_wrong" not in said.stderr


def test_an_unreachable_service_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("dn_any")

    said = run("http://127.0.0.1:9", tmp_path / "key")

    assert said.returncode == 1
    assert said.stderr.startswith("POST /index/snapshots:")
    assert len(said.stderr.strip().splitlines()) == 1
