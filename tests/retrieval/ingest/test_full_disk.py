"""A disk that is really full: a small file system of its own under the data folder. 507, reads go on, nothing torn."""

import io
import json
import shutil
import signal
import sqlite3
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from dermnote_contracts.problems import InsufficientStorage
from dermnote_retrieval.store.disk import translate_full_disk
from tests.retrieval.runtime.test_process import COMMAND, Server, launch

MIB = 1 << 20
DISK_BYTES, FILLER_BYTES = 24 * MIB, 16 * MIB
MOUNT = f'mount -t tmpfs -o size={DISK_BYTES} tmpfs "$0" && exec "$@"'
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT)
# In the namespace of the process $0: another mount namespace could not start a program on its disk.
JOIN = ("nsenter", "--user", "--mount", "--preserve-credentials", "--target")
TAR, NDJSON = {"Content-Type": "application/x-tar"}, {"Content-Type": "application/x-ndjson"}


def why_not(folder: Path) -> str | None:
    """What keeps this machine from giving a process a small disk of its own, if anything."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    tried = subprocess.run([*NAMESPACE, folder, "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"no tmpfs can be mounted in a namespace: {tried.stderr.strip()}"


class SmallDisk:
    """A folder that is a small disk for a sleeping process and for whoever joins it; part of it a filler takes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self._holder = subprocess.Popen(
            [*NAMESPACE, folder, "sh", "-c", "echo mounted; exec sleep infinity"], stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"mounted\n"
        self._holder.stdout.close()
        # The namespace's own view of it.
        self.inside = Path(f"/proc/{self._holder.pid}/root{folder}")
        (self.inside / "filler").write_bytes(bytes(FILLER_BYTES))

    @property
    def command(self) -> tuple[str, ...]:
        """Starts the service where the disk is seen."""
        return (*JOIN, str(self._holder.pid), *COMMAND)

    def fill(self) -> None:
        """Take what is left, to the last byte."""
        with (self.inside / "filler").open("ab", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                return

    def make_room(self) -> None:
        (self.inside / "filler").unlink()

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()


Start = Callable[..., Server]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    (tmp_path / "try").mkdir()
    if reason := why_not(tmp_path / "try"):
        pytest.skip(reason)
    small = SmallDisk(tmp_path / "small")
    yield small
    small.close()


@pytest.fixture
def start(disk: SmallDisk) -> Iterator[Start]:
    """Start a server whose data are on the disk."""
    servers: list[Server] = []

    def started(data_dir: Path = disk.folder, **variables: str) -> Server:
        servers.append(Server(data_dir, command=disk.command, **variables))
        return servers[-1]

    yield started
    for server in servers:
        server.kill()


@pytest.fixture
def client(start: Start) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=start().url, timeout=60) as client:
        yield client


def picture(number: int) -> bytes:
    """A JPEG that takes about 300 KB, whatever stores it."""
    pixels = np.random.default_rng(number).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


def put(client: httpx.Client, number: int) -> httpx.Response:
    return client.put(f"/items/i{number:04}", files={"image": picture(number)}, data={"note": f"note {number}"})


def fill_with_items(client: httpx.Client) -> list[str]:
    """Put until there is no room; the ids that were taken."""
    taken: list[str] = []
    for number in range(100):
        answer = put(client, number)
        if answer.status_code == 507:
            assert answer.json()["code"] == "insufficient-storage"
            return taken
        assert answer.status_code == 201, answer.text
        taken.append(f"i{number:04}")
    raise AssertionError("the disk never was full")


def use_up(client: httpx.Client) -> list[str]:
    """The last room too, which is in the store's own files; the ids of what it took."""
    taken: list[str] = []
    while not refused(answer := client.put(f"/items/n{len(taken):04}", data={"note": "x" * 2000})):
        assert answer.status_code == 201
        taken.append(f"n{len(taken):04}")
    return taken


def ids(client: httpx.Client) -> list[str]:
    return [item["id"] for item in client.get("/items?limit=1000").raise_for_status().json()["items"]]


def check_whole(client: httpx.Client, taken: list[str]) -> None:
    """Every acknowledged item is there, no other, found by its own picture; index and store agree."""
    assert ids(client) == sorted(taken)
    index = client.get("/index").raise_for_status().json()
    assert (index["items"], index["routes"]["images"]["vectors"]) == (len(taken), len(taken))
    for item_id in (taken[0], taken[-1]):
        asked = {"item_id": item_id, "via": "images", "k": len(taken)}
        hits = client.post("/search", json=asked).raise_for_status().json()["hits"]
        assert {hit["id"] for hit in hits} == set(taken) - {item_id}
        assert client.get(f"/items/{item_id}/image").status_code == 200
    assert client.get("/health/ready").status_code == 200
    assert client.get("/models").status_code == 200
    assert client.get("/metrics").status_code == 200


def refused(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.json().get("code")) == (507, "insufficient-storage")


def bulk(client: httpx.Client, numbers: range) -> list[dict[str, Any]]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in numbers:
            data = picture(number)
            member = tarfile.TarInfo(f"i{number:04}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    answer = client.post("/items/bulk", content=out.getvalue(), headers=TAR)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_every_write_is_507_reads_go_on_and_with_room_writes_do_too(disk: SmallDisk, client: httpx.Client) -> None:
    taken = fill_with_items(client)
    disk.fill()
    assert len(taken) > 5

    assert refused(put(client, 900))
    assert refused(client.post("/index/snapshots"))
    assert not list((disk.inside / "snapshots").glob("*"))
    assert {outcome["error"]["code"] for outcome in bulk(client, range(900, 903))} == {"insufficient-storage"}
    check_whole(client, taken)

    disk.make_room()
    assert put(client, 900).status_code == 201
    assert client.delete(f"/items/{taken.pop()}").status_code == 204
    assert client.post("/index/snapshots").status_code == 201
    check_whole(client, [*taken, "i0900"])


def test_what_was_acknowledged_survives_a_kill_and_a_start_on_the_full_disk(disk: SmallDisk, start: Start) -> None:
    server = start()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        taken = fill_with_items(client)
    disk.fill()
    server.kill()

    with httpx.Client(base_url=start().url, timeout=60) as client:
        check_whole(client, taken)
        assert refused(put(client, 900))
        disk.make_room()
        assert put(client, 900).status_code == 201
        check_whole(client, [*taken, "i0900"])


def test_a_bulk_load_says_of_each_record_whether_it_had_room(disk: SmallDisk, start: Start) -> None:
    with httpx.Client(base_url=start(RETRIEVAL_BULK_CHUNK_ITEMS="4").url, timeout=60) as client:
        outcomes = bulk(client, range(40))

        assert [outcome["id"] for outcome in outcomes] == [f"i{number:04}" for number in range(40)]
        created = [outcome["id"] for outcome in outcomes if outcome["status"] == "created"]
        left = outcomes[len(created) :]
        assert 0 < len(created) < 40
        assert len(created) % 4 == 0
        assert {outcome["error"]["code"] for outcome in left} == {"insufficient-storage"}
        assert {"not tried" in outcome["error"]["detail"] for outcome in left} == {True, False}
        check_whole(client, created)

        disk.make_room()
        again = bulk(client, range(len(created) + 2))
        assert [outcome["status"] for outcome in again] == ["unchanged"] * len(created) + ["created"] * 2


def test_a_stop_on_a_full_disk_is_clean_and_the_checkpoint_before_stays(disk: SmallDisk, start: Start) -> None:
    server = start()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        assert put(client, 900).status_code == 201
    assert stopped(server)[0] == 0
    before = (disk.inside / "index" / "manifest.json").read_bytes()

    server = start()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        taken = [*fill_with_items(client), "i0900"]
    disk.fill()
    code, log = stopped(server)

    assert (code, "Traceback" in log) == (0, False)
    assert "no checkpoint of the index was written" in log
    assert (disk.inside / "index" / "manifest.json").read_bytes() == before
    assert not list(disk.inside.glob(".index*"))
    with httpx.Client(base_url=start().url, timeout=60) as client:
        check_whole(client, taken)


def test_a_move_to_another_model_that_finds_no_room_ends_and_can_be_asked_for_again(
    disk: SmallDisk, client: httpx.Client
) -> None:
    fill_with_items(client)
    disk.fill()
    use_up(client)

    assert client.put("/models/active", json={"name": "dummy-512"}).status_code in (202, 507)
    while any(model["reembedding"] is not None for model in client.get("/models").json()):
        pass
    assert client.get("/index").json()["model"] == "dummy-1"
    assert client.get("/health/ready").status_code == 200
    disk.make_room()
    assert client.put("/models/active", json={"name": "dummy-512"}).status_code == 202
    while client.get("/index").json()["model"] != "dummy-512-1":
        pass
    assert client.get("/health/ready").status_code == 200


def test_a_restore_that_finds_no_room_leaves_all_as_it_was(disk: SmallDisk, start: Start) -> None:
    with httpx.Client(base_url=start().url, timeout=60) as client:
        taken = [f"i{number:04}" for number in range(5)]
        assert [put(client, number).status_code for number in range(5)] == [201] * 5
        snapshot = client.post("/index/snapshots").json()["id"]
        assert put(client, 5).status_code == 201
        disk.fill()

        assert refused(client.post(f"/index/snapshots/{snapshot}/restore"))
        check_whole(client, [*taken, "i0005"])
        disk.make_room()
        assert client.post(f"/index/snapshots/{snapshot}/restore").status_code == 200
        check_whole(client, taken)
        assert put(client, 900).status_code == 201


def test_a_start_that_needs_room_says_so_in_one_line(disk: SmallDisk) -> None:
    disk.fill()

    process = launch(disk.command, RETRIEVAL_DATA_DIR=str(disk.folder), RETRIEVAL_ENCODER="dummy")
    out, err = process.communicate(timeout=60)

    assert (process.returncode, out, len(err.splitlines())) == (2, "", 1)
    assert "The disk is full" in err
    assert "free some space" in err


def test_an_upload_that_finds_no_room_in_the_temporary_folder_is_507(
    disk: SmallDisk, start: Start, tmp_path: Path
) -> None:
    """Large uploads, and the outcomes of large loads, are kept in files there."""
    server = start(tmp_path / "elsewhere", TMPDIR=str(disk.folder))
    with httpx.Client(base_url=server.url, timeout=60) as client:
        assert client.put("/items/a", files={"image": bytes(4 * MIB)}).status_code == 422
        disk.fill()
        assert refused(client.put("/items/a", files={"image": bytes(4 * MIB)}))
        names = [f"{number}".ljust(120, "x") for number in range(8_000)]
        lines = "\n".join(json.dumps({"id": name, "metadata": {"n": 1}}) for name in names)
        answer = client.post("/items/bulk", content=lines, headers=NDJSON)
        assert refused(answer)
        assert "sent again" in answer.json()["detail"]
        disk.make_room()
        assert client.put("/items/a", files={"image": picture(1)}).status_code == 201
        again = client.post("/items/bulk", content=lines, headers=NDJSON).text
        assert again.count("unchanged") > 4_000
        assert again.count("unchanged") + again.count("created") == 8_000


def test_an_error_that_a_broken_disk_gives_too_is_one_of_a_full_disk_only_where_it_is_full(disk: SmallDisk) -> None:
    """As with a quota, of which SQLite says no more than that it could not write."""
    wrong = sqlite3.OperationalError("disk I/O error")
    wrong.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    with pytest.raises(sqlite3.OperationalError, match="I/O"), translate_full_disk("nothing stored", at=disk.inside):
        raise wrong
    disk.fill()
    with (
        pytest.raises(InsufficientStorage, match="nothing stored"),
        translate_full_disk("nothing stored", at=disk.inside),
    ):
        raise wrong


def stopped(server: Server) -> tuple[int, str]:
    """Exit code and log of a server that is told to stop."""
    server.process.send_signal(signal.SIGTERM)
    _, log = server.process.communicate(timeout=60)
    return server.process.returncode, log
