"""The compose stack on a real Docker engine: `make compose-test`. It builds the images and takes minutes.

The tests share one stack and run in order; each starts from the state that earlier tests created.
"""

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.request import urlopen

import pytest

from dermnote_contracts.notes import NoteRequest
from dermnote_contracts.retrieval import SearchResponse
from dermnote_train.data.draw import draw_dataset
from dermnote_train.remote.notegen import NoteService
from dermnote_train.remote.retrieval import RetrievalService
from dermnote_train.remote.shards import NewItem
from tests.deploy.composed import Composed, Container, inspected
from tests.e2e.conftest import wait_until

ASKED = os.environ.get("DERMNOTE_COMPOSE_TEST") == "1"
pytestmark = [
    pytest.mark.skipif(not ASKED, reason="builds images for minutes: make compose-test runs it"),
    pytest.mark.skipif(ASKED and shutil.which("docker") is None, reason="there is no docker here"),
]
NOTES = 50
SERVICES = ("redis", "notegen-api", "notegen-worker", "retrieval")
# Bytes that an image may add to its base image.
MOST_BYTES = {"notegen-api": 60e6, "notegen-worker": 260e6, "retrieval": 410e6}
PATIENCE_S = 300.0


@dataclass
class State:
    """State of the stack that earlier tests created."""

    note_ids: list[str] = field(default_factory=list)
    items: list[NewItem] = field(default_factory=list)
    found: SearchResponse | None = None


@pytest.fixture(scope="module")
def stack() -> Iterator[Composed]:
    """A stack built and started as by a user; everything except the images is removed at the end."""
    composed = Composed()
    started = time.monotonic()
    composed("build")
    built = time.monotonic()
    try:
        composed.up()
        print(f"\nbuild {built - started:.0f} s, up --wait {time.monotonic() - built:.0f} s")
        yield composed
    finally:
        composed("--profile", "*", "down", "--volumes", "--remove-orphans")


@pytest.fixture(scope="module")
def left() -> State:
    return State()


@pytest.fixture(scope="module")
def notes(stack: Composed) -> Iterator[NoteService]:
    with NoteService(stack.notegen, patience_s=PATIENCE_S) as service:
        yield service


@pytest.fixture(scope="module")
def retrieval(stack: Composed) -> Iterator[RetrievalService]:
    with RetrievalService(stack.retrieval, patience_s=PATIENCE_S) as service:
        yield service


def requests(count: int, *, salt: int) -> list[NoteRequest]:
    """Distinct requests for notes written by the model."""
    return [
        NoteRequest.model_validate(
            {
                "metadata": {"age": 20 + index % 70, "sex": "female", "site": "back", "diagnosis": "nevus"},
                "options": {"seed": salt * 1000 + index},
            }
        )
        for index in range(count)
    ]


def assert_finished(notes: NoteService, batch_id: str, *, count: int) -> list[str]:
    """Check that each note of a batch finished once, in order, faithful; returns their ids."""
    wait_until(lambda: notes.batch(batch_id).ended == count, timeout_s=600, what="the batch has ended")
    jobs = list(notes.batch_notes(batch_id))
    assert [job.index for job in jobs] == list(range(count))
    assert {job.status for job in jobs} == {"finished"}
    assert all(job.notes[0].verification.faithful for job in jobs)
    return [job.id for job in jobs]


def test_the_images_are_small(stack: Composed) -> None:
    sizes = {service: stack.size(service) for service in MOST_BYTES}
    print("\nbeyond the Python image: " + ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sizes.items()))

    assert {name for name, size in sizes.items() if size > MOST_BYTES[name]} == set()


def assert_restricted(container: Container) -> None:
    """Check that the container has minimal privileges."""
    host_config = container.inspected["HostConfig"]

    assert host_config["ReadonlyRootfs"] is True
    assert host_config["CapDrop"] == ["ALL"]
    assert not host_config["CapAdd"]
    assert not host_config["Privileged"]
    assert "no-new-privileges:true" in host_config["SecurityOpt"]
    assert host_config["Memory"] > 0
    assert host_config["PidsLimit"] > 0
    assert host_config["LogConfig"]["Config"]["max-size"]
    assert int(container.run("id", "-u")) >= 999
    assert not container.tries("sh", "-c", "echo here > /here")
    capabilities = [line.split()[1] for line in container.run("cat", "/proc/1/status").splitlines() if "Cap" in line]
    assert capabilities == ["0" * 16] * len(capabilities)
    assert "NoNewPrivs:\t1" in container.run("cat", "/proc/1/status")


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_minimal_privileges(stack: Composed, service: str) -> None:
    (container,) = stack.containers(service)

    assert_restricted(container)


def test_only_loopback_ports_are_published_and_none_of_redis(stack: Composed) -> None:
    published = {
        container.service: [binding["HostIp"] for port in ports.values() for binding in port or []]
        for container in stack.containers()
        if (ports := container.inspected["NetworkSettings"]["Ports"]) is not None
    }

    assert published["notegen-api"] == published["retrieval"] == ["127.0.0.1"]
    assert not published["redis"]
    assert not published["notegen-worker"]


def test_redis_requires_the_password_which_is_not_exposed(stack: Composed) -> None:
    (redis,) = stack.containers("redis")
    password = redis.run("cat", "/run/secrets/redis_password").strip()

    assert "NOAUTH" in redis.run("redis-cli", "ping")
    for container in stack.containers():
        assert password not in str(container.inspected)
        assert password not in container.run("sh", "-c", "cat /proc/*/cmdline /proc/1/environ | tr '\\0' ' '")


def test_notes_are_written_indexed_and_found(
    stack: Composed, left: State, notes: NoteService, retrieval: RetrievalService, tmp_path: Path
) -> None:
    batch = notes.submit_batch(requests(NOTES, salt=1))
    left.note_ids = assert_finished(notes, batch.id, count=NOTES)
    texts = [job.notes[0].text for job in notes.batch_notes(batch.id)]
    pictures = sorted((draw_dataset(tmp_path / "drawn", count=NOTES, seed=0) / "images").glob("*.jpg"))
    left.items = [
        NewItem(
            item_id=f"item-{place}",
            image=picture.read_bytes(),
            suffix="jpg",
            note=text,
            metadata={"diagnosis": "nevus"},
            group=f"group-{place}",
        )
        for place, (picture, text) in enumerate(zip(pictures, texts, strict=True))
    ]

    outcomes = retrieval.bulk(left.items)
    left.found = retrieval.search_image(left.items[7].image or b"", k=5, via="images")

    assert {outcome.status for outcome in outcomes} == {"created"}
    assert left.found.hits[0].id == "item-7"
    assert left.found.hits[0].note == texts[7]


def written_by(worker: Container) -> int:
    """Number of requests that a worker's engine has finished."""
    text = worker.run(
        "python",
        "-c",
        "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:9101/metrics').read().decode())",
    )
    lines = [line for line in text.splitlines() if line.startswith("dermnote_engine_requests_total{")]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


def test_three_workers_share_the_work(stack: Composed, notes: NoteService) -> None:
    stack.up("--no-recreate", "--scale", "notegen-worker=3")
    workers = stack.containers("notegen-worker")
    assert len(workers) == 3
    before = [written_by(worker) for worker in workers]

    batch = notes.submit_batch(requests(240, salt=2))
    assert_finished(notes, batch.id, count=240)

    shares = [written_by(worker) - earlier for worker, earlier in zip(workers, before, strict=True)]
    print(f"\nrequests of the three engines: {shares}")
    assert min(shares) > 0
    stack.up("--no-recreate", "--scale", "notegen-worker=1")
    assert len(stack.containers("notegen-worker")) == 1


@pytest.mark.parametrize("service", SERVICES)
def test_no_note_is_lost_when_a_container_dies(stack: Composed, notes: NoteService, service: str) -> None:
    (container,) = stack.containers(service)
    batch = notes.submit_batch(requests(120, salt=3 + SERVICES.index(service)))
    wait_until(lambda: notes.batch(batch.id).ended > 0, timeout_s=120, what="the first note has ended")

    container.kill()

    stack.wait_restarted(container)
    assert_finished(notes, batch.id, count=120)


def test_no_acknowledged_item_is_lost_when_retrieval_dies(
    stack: Composed, left: State, retrieval: RetrievalService
) -> None:
    (container,) = stack.containers("retrieval")
    more = [
        NewItem(f"late-{place}", one.image, one.suffix, one.note, one.metadata, f"late-{place}")
        for place, one in enumerate(left.items * 4)
    ]
    acknowledged: list[str] = []

    def load() -> None:
        with RetrievalService(stack.retrieval, patience_s=PATIENCE_S) as service:
            for item in more:
                service.put_item(item)
                acknowledged.append(item.item_id)

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(load)
        wait_until(lambda: len(acknowledged) > 10, timeout_s=60, what="some items are stored")
        container.kill()
        assert len(acknowledged) < len(more)
        loading.result(timeout=300)  # the client retries until the service is back

    stack.wait_restarted(container)
    info = retrieval.index_info()
    assert info.items == len(left.items) + len(more)
    assert {retrieval.get_item(one).id for one in acknowledged} == {item.item_id for item in more}


def test_state_survives_down_and_up(
    stack: Composed, left: State, notes: NoteService, retrieval: RetrievalService
) -> None:
    items = retrieval.index_info().items
    found = retrieval.search_image(left.items[7].image or b"", k=5, via="images")
    texts = [notes.get(one).notes[0].text for one in left.note_ids]

    stack("down")
    started = time.monotonic()
    stack.up()
    print(f"\nup --wait again {time.monotonic() - started:.0f} s")

    assert [notes.get(one).notes[0].text for one in left.note_ids] == texts
    assert retrieval.index_info().items == items
    again = retrieval.search_image(left.items[7].image or b"", k=5, via="images")
    assert [(hit.id, hit.note) for hit in again.hits] == [(hit.id, hit.note) for hit in found.hits]


def test_rq_dashboard_shows_the_queue(stack: Composed, notes: NoteService) -> None:
    notes.submit(requests(1, salt=9)[0])  # a queue exists from its first job on
    stack.up("rq-dashboard")

    with urlopen(f"{stack.rq_dashboard}/0/data/queues.json", timeout=30) as answer:  # noqa: S310
        queues = answer.read().decode()

    assert '"notes"' in queues
    (container,) = stack.containers("rq-dashboard")
    assert_restricted(container)


def test_the_client_runs_its_demo_against_the_stack(stack: Composed) -> None:
    stack("--profile", "train", "build", "train")
    steps = (
        "dermnote datasets draw data/small --count 40 && "
        "dermnote demo --data data/small --epochs 1 --out demo/small && test -s demo/small/report.html"
    )

    said = stack("--profile", "train", "run", "--rm", "--no-TTY", "train", "sh", "-c", steps)

    assert "notes found" in said
    name = stack("--profile", "train", "run", "--detach", "train", "sleep", "300").split()[-1]
    assert_restricted(*inspected(name))
