"""kill -9 at random moments of bulk loads: exactly the acknowledged items exist, and index and store agree."""

import base64
import json
import os
import random
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.retrieval.runtime.test_process import Server

# DERMNOTE_KILLS=50 DERMNOTE_KILLED_ITEMS=20000 runs the full test, which takes some minutes.
KILLS = int(os.environ.get("DERMNOTE_KILLS", "3"))
ITEMS = int(os.environ.get("DERMNOTE_KILLED_ITEMS", "3000"))
PER_REQUEST = 150
MODEL, DIM = "dummy-1", 96
HEADERS = {"Content-Type": "application/x-ndjson"}


def vector(number: int) -> str:
    return base64.b64encode(np.random.default_rng(number).normal(size=DIM).astype("<f4").tobytes()).decode()


def line(item_id: str, number: int) -> str:
    return json.dumps({"id": item_id, "note": f"note {number}", "note_vector": vector(number), "model": MODEL})


class Load:
    """A bulk load of ITEMS in requests of PER_REQUEST, in a thread, until it is done or the server dies."""

    def __init__(self, url: str, *, round_: int) -> None:
        self.sent: set[str] = set()
        self.acknowledged: set[str] = set()
        self.begun = threading.Event()
        self._url = url
        self._round = round_
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            for first in range(0, ITEMS, PER_REQUEST):
                names = {f"r{self._round}.{n}": n for n in range(first, first + PER_REQUEST)}
                self.sent |= names.keys()
                try:
                    content = "\n".join(line(name, number) for name, number in names.items())
                    answer = client.post("/items/bulk", content=content, headers=HEADERS)
                    outcomes = [json.loads(one) for one in answer.text.splitlines()]
                except httpx.TransportError:
                    return
                self.acknowledged |= {one["id"] for one in outcomes if one["status"] == "created"}
                self.begun.set()


def listed(client: httpx.Client) -> set[str]:
    item_ids: set[str] = set()
    cursor = None
    while True:
        page = client.get("/items", params={"limit": 1000} | ({"cursor": cursor} if cursor else {})).json()
        item_ids |= {item["id"] for item in page["items"]}
        cursor = page["next_cursor"]
        if cursor is None:
            return item_ids


def test_exactly_the_acknowledged_items_exist(tmp_path: Path) -> None:
    draw = random.Random(7)
    acknowledged: set[str] = set()
    sent: set[str] = set()
    starts: list[float] = []
    server = Server(tmp_path / "data")
    try:
        for round_ in range(KILLS):
            load = Load(server.url, round_=round_)
            assert load.begun.wait(60)
            threading.Event().wait(draw.uniform(0, 1.5))
            server.kill()
            load.join()
            acknowledged |= load.acknowledged
            sent |= load.sent

            started = time.monotonic()
            server = Server(tmp_path / "data")
            starts.append(time.monotonic() - started)
            with httpx.Client(base_url=server.url, timeout=60) as client:
                present = listed(client)
                index = client.get("/index").json()
                assert acknowledged <= present <= sent
                assert client.get("/health/ready").json()["checks"]["index"] == "ok"
                assert index["items"] == index["routes"]["notes"]["vectors"] == len(present)
                number = draw.randrange(PER_REQUEST)
                query = np.frombuffer(base64.b64decode(vector(number)), "<f4").astype(float).tolist()
                hit = client.post("/search", json={"vector": query, "via": "notes", "k": 1}).json()["hits"][0]
                assert (hit["note"], hit["score"]) == (f"note {number}", pytest.approx(1, abs=1e-5))
    finally:
        server.kill()
    print(f"{len(acknowledged)} items acknowledged, {KILLS} kills, slowest start {max(starts):.1f} s")
