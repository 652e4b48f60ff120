"""A full disk, simulated by a small file system for the data folder: 507, reads continue, no partial writes."""

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
from dermnote_retrieval.store.database import translate_full_disk
from tests.retrieval.runtime.test_process import COMMAND, Server, launch

MIB = 1 << 20
DISK_BYTES, FILLER_BYTES = 24 * MIB, 16 * MIB
MOUNT = f'mount -t tmpfs -o size={DISK_BYTES} tmpfs "$0" && exec "$@"'
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT)
# In the namespace of the process $0: another mount namespace could not start a program on its disk.
JOIN = ("nsenter", "--user", "--mount", "--preserve-credentials", "--target")
TAR, NDJSON = {"Content-Type": "application/x-tar"}, {"Content-Type": "application/x-ndjson"}


def why_not(folder: Path) -> str | None:
    """Why this machine cannot mount a small disk for a process, or None."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    tried = subprocess.run([*NAMESPACE, folder, "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"no tmpfs can be mounted in a namespace: {tried.stderr.strip()}"


class SmallDisk:
    """A folder that is a small disk in the namespace of a sleeping process; a filler occupies part of it."""

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
        """Starts the service in the namespace."""
        return (*JOIN, str(self._holder.pid), *COMMAND)

    def fill(self) -> None:
        """Fill the remaining space."""
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
    """Start a server with its data on the disk."""
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
    """A JPEG of about 300 KB, also when re-encoded."""
    pixels = np.random.default_rng(number).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


def put(client: httpx.Client, number: int) -> httpx.Response:
    return client.put(f"/items/i{number:04}", files={"image": picture(number)}, data={"note": f"note {number}"})


def fill_with_items(client: httpx.Client) -> list[str]:
    """Put until the disk is full; the ids of the stored items."""
    stored: list[str] = []
    for number in range(100):
        answer = put(client, number)
        if answer.status_code == 507:
            assert answer.json()["code"] == "insufficient-storage"
            return stored
        assert answer.status_code == 201, answer.text
        stored.append(f"i{number:04}")
    raise AssertionError("the disk never was full")


def use_up(client: httpx.Client) -> list[str]:
    """Also fill the free space in the store's own files; the ids of the stored items."""
    stored: list[str] = []
    while not refused(answer := client.put(f"/items/n{len(stored):04}", data={"note": "x" * 2000})):
        assert answer.status_code == 201
        stored.append(f"n{len(stored):04}")
    return stored


def ids(client: httpx.Client) -> list[str]:
    return [item["id"] for item in client.get("/items?limit=1000").raise_for_status().json()["items"]]


def check_whole(client: httpx.Client, stored: list[str]) -> None:
    """Exactly the acknowledged items exist and can be found by their images; index and store agree."""
    assert ids(client) == sorted(stored)
    index = client.get("/index").raise_for_status().json()
    assert (index["items"], index["routes"]["images"]["vectors"]) == (len(stored), len(stored))
    for item_id in (stored[0], stored[-1]):
        request = {"item_id": item_id, "via": "images", "k": len(stored)}
        hits = client.post("/search", json=request).raise_for_status().json()["hits"]
        assert {hit["id"] for hit in hits} == set(stored) - {item_id}
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


def test_writes_are_507_and_reads_continue_until_there_is_space_again(disk: SmallDisk, client: httpx.Client) -> None:
    stored = fill_with_items(client)
    disk.fill()
    assert len(stored) > 5

    assert refused(put(client, 900))
    assert refused(client.post("/index/snapshots"))
    assert not list((disk.inside / "snapshots").glob("*"))
    assert {outcome["error"]["code"] for outcome in bulk(client, range(900, 903))} == {"insufficient-storage"}
    check_whole(client, stored)

    disk.make_room()
    assert put(client, 900).status_code == 201
    assert client.delete(f"/items/{stored.pop()}").status_code == 204
    assert client.post("/index/snapshots").status_code == 201
    check_whole(client, [*stored, "i0900"])


def test_acknowledged_items_survive_a_kill_and_a_start_on_the_full_disk(disk: SmallDisk, start: Start) -> None:
    server = start()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        stored = fill_with_items(client)
    disk.fill()
    server.kill()

    with httpx.Client(base_url=start().url, timeout=60) as client:
        check_whole(client, stored)
        assert refused(put(client, 900))
        disk.make_room()
        assert put(client, 900).status_code == 201
        check_whole(client, [*stored, "i0900"])


def test_a_bulk_load_reports_for_each_record_whether_it_was_stored(disk: SmallDisk, start: Start) -> None:
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


def test_a_shutdown_on_a_full_disk_is_clean(disk: SmallDisk, start: Start) -> None:
    server = start()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        stored = fill_with_items(client)
    disk.fill()
    code, log = stopped(server)

    assert (code, "Traceback" in log) == (0, False)
    with httpx.Client(base_url=start().url, timeout=60) as client:
        check_whole(client, stored)


def test_re_embedding_on_a_full_disk_ends_and_can_be_repeated(disk: SmallDisk, client: httpx.Client) -> None:
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


def test_a_restore_on_a_full_disk_changes_nothing(disk: SmallDisk, start: Start) -> None:
    with httpx.Client(base_url=start().url, timeout=60) as client:
        stored = [f"i{number:04}" for number in range(5)]
        assert [put(client, number).status_code for number in range(5)] == [201] * 5
        snapshot = client.post("/index/snapshots").json()["id"]
        assert put(client, 5).status_code == 201
        disk.fill()

        assert refused(client.post(f"/index/snapshots/{snapshot}/restore"))
        check_whole(client, [*stored, "i0005"])
        disk.make_room()
        assert client.post(f"/index/snapshots/{snapshot}/restore").status_code == 200
        check_whole(client, stored)
        assert put(client, 900).status_code == 201


def test_a_start_on_a_full_disk_fails_with_one_line(disk: SmallDisk) -> None:
    disk.fill()

    process = launch(disk.command, RETRIEVAL_DATA_DIR=str(disk.folder), RETRIEVAL_ENCODER="dummy")
    out, err = process.communicate(timeout=60)

    assert (process.returncode, out, len(err.splitlines())) == (2, "", 1)
    assert "The disk is full" in err
    assert "free some space" in err


def test_an_upload_is_507_if_the_temporary_folder_is_full(disk: SmallDisk, start: Start, tmp_path: Path) -> None:
    """Large uploads, and the outcomes of large loads, are files in that folder."""
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


def test_an_ambiguous_error_counts_as_a_full_disk_only_if_the_disk_is_full(disk: SmallDisk) -> None:
    """With an exhausted quota, SQLite only reports that it could not write."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    with pytest.raises(sqlite3.OperationalError, match="I/O"), translate_full_disk("nothing stored", at=disk.inside):
        raise error
    disk.fill()
    with (
        pytest.raises(InsufficientStorage, match="nothing stored"),
        translate_full_disk("nothing stored", at=disk.inside),
    ):
        raise error


def stopped(server: Server) -> tuple[int, str]:
    """Stop a server; its exit code and log."""
    server.process.send_signal(signal.SIGTERM)
    _, log = server.process.communicate(timeout=60)
    return server.process.returncode, log
