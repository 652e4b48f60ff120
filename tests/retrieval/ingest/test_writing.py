"""Readers and writers at the same time: nothing is lost, and store and index agree at the end."""

import threading
from typing import Any


def test_writers_and_readers_side_by_side(client: Any, put: Any, paint: Any) -> None:
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
    found = {item["id"] for item in client.get("/items").json()["items"]}
    hits = client.post("/search", json={"text": "1 1", "k": 100}).json()["hits"]
    assert {hit["id"] for hit in hits} == found


def test_too_many_waiting_requests_are_refused_early(serve: Any) -> None:
    client = serve(workers=1, max_waiting=1)
    gate, entered = threading.Event(), threading.Event()
    original = client.app.state.service.search.by_text

    def slow(*args: Any, **kwargs: Any) -> Any:
        entered.set()
        assert gate.wait(30)
        return original(*args, **kwargs)

    client.app.state.service.search.by_text = slow
    answers: list[int] = []
    ask = [
        threading.Thread(target=lambda: answers.append(client.post("/search", json={"text": "x"}).status_code))
        for _ in range(2)
    ]
    ask[0].start()
    assert entered.wait(30)
    ask[1].start()
    limiter = client.app.state.service.workers.waiting
    while limiter() < 1:
        threading.Event().wait(0.01)
    refused = client.post("/search", json={"text": "x"})
    gate.set()
    for thread in ask:
        thread.join()

    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert answers == [200, 200]
