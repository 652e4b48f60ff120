"""Concurrent readers and writers: nothing is lost, and store and index agree at the end."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest


def test_concurrent_writers_and_readers(client: Any, put: Any, paint: Any) -> None:
    failures: list[str] = []

    def note(answer: Any, *expected: int) -> None:
        if answer.status_code not in expected:
            failures.append(answer.text)

    def write(writer: int) -> None:
        for number in range(12):
            item_id = f"i{(writer * 5 + number) % 20}"
            note(
                client.put(f"/items/{item_id}", data={"note": f"{writer} {number}"}, files={"image": paint()}), 200, 201
            )
            if number % 5 == 0:
                note(client.delete(f"/items/{item_id}"), 204, 404)

    def read() -> None:
        for _ in range(25):
            note(client.post("/search", json={"text": "1 1"}), 200)
            note(client.get("/health/ready"), 200)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)] + [threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    index = client.get("/index").json()
    assert index["items"] == index["routes"]["notes"]["vectors"] == index["routes"]["images"]["vectors"]
    item_ids = {item["id"] for item in client.get("/items").json()["items"]}
    hits = client.post("/search", json={"text": "1 1", "k": 100}).json()["hits"]
    assert {hit["id"] for hit in hits} == item_ids


@pytest.fixture
def busy(serve: Any) -> Iterator[Any]:
    """A client of a service with one worker, which is busy; one more request may wait. `release` ends the work."""
    client = serve(workers=1, max_waiting=1)
    client.release, entered = threading.Event(), threading.Event()
    original = client.app.state.service.search.by_text

    def slow(*args: Any, **kwargs: Any) -> Any:
        entered.set()
        assert client.release.wait(30)
        return original(*args, **kwargs)

    client.app.state.service.search.by_text = slow
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.post, "/search", json={"text": "x"})
        assert entered.wait(30)
        yield client
        client.release.set()
        assert running.result(30).status_code == 200


def wait_until_one_waits(client: Any) -> None:
    deadline = time.monotonic() + 10
    while client.app.state.service.workers.waiting() < 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_too_many_waiting_requests_are_rejected(busy: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(busy.post, "/search", json={"text": "x"})
        wait_until_one_waits(busy)
        rejected = busy.post("/search", json={"text": "x"})
        busy.release.set()

        assert waiting.result(30).status_code == 200
    assert (rejected.status_code, rejected.headers["retry-after"]) == (503, "1")


READS = ("/items", "/items/a", "/items/a/image", "/models", "/index/snapshots")


@pytest.mark.parametrize("path", READS)
def test_reads_share_the_workers_of_all_requests(busy: Any, path: str) -> None:
    """There is one pool of threads, so that `workers` and `max_waiting` limit all requests together."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(busy.get, path)
        wait_until_one_waits(busy)
        assert busy.get("/items").status_code == 503
        busy.release.set()

        assert waiting.result(30).status_code in (200, 404)


def test_operators_get_answers_when_all_workers_are_busy(busy: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(busy.delete, "/items/a")
        wait_until_one_waits(busy)

        assert busy.get("/health/ready").status_code == 200
        assert busy.get("/index").json()["waiting"]["requests"] == 1
        assert 'what="requests"} 1.0' in busy.get("/metrics").text
        busy.release.set()
        assert waiting.result(30).status_code == 404
