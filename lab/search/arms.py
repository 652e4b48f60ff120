"""The servers and what is asked of them: ours, clip-retrieval's, and FAISS by itself without any service."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from lab.peers.clip_retrieval import python_of
from lab.peers.process import ServerProcess, free_port, server_process
from lab.search.load import Load, drive, post
from lab.search.vectors import DIM, Vectors, clustered, keeping, lines, metadata

HOST = "127.0.0.1"
MODEL = "dummy-512"
K = 10
READY_S = 900
NDJSON = {"Content-Type": "application/x-ndjson"}
FILTERS = {"vector": None, "50 %": keeping(0.5), "1 %": keeping(0.01), "0.01 %": keeping(0.0001)}
# Queries are of the same clusters as what is searched, and none of it.
QUERY_SEED = 99


@dataclass
class Arm:
    """One server over so many vectors. `rows`: by kind of query, one a number of clients."""

    name: str
    vectors: int
    rows: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)


def queries(count: int = 500) -> Vectors:
    """Unit vectors [count, DIM] to search with."""
    return np.concatenate(list(clustered(count, seed=QUERY_SEED)))


@contextmanager
def our_server(folder: Path, **settings: str) -> Iterator[ServerProcess]:
    """The service as it is shipped; settings without their prefix."""
    port = free_port()
    given = {"DATA_DIR": str(folder), "PORT": str(port), "ENCODER": "dummy", "MODEL": MODEL} | settings
    with server_process(
        [sys.executable, "-m", "dermnote_retrieval"],
        url=f"http://{HOST}:{port}",
        environment={f"RETRIEVAL_{name}": value for name, value in given.items()},
        healthy="/health/ready",
        ready_s=READY_S,
    ) as process:
        yield process


def run_ours(count: int, *, folder: Path, clients: Sequence[int], seconds: float) -> Arm:
    """Load, restart, search: by vector, without and with filters."""
    arm = Arm("dermnote", count)
    with our_server(folder) as server:
        arm.figures["items_loaded_per_s"] = count / load_ours(server, count)
        arm.figures["lists_built_s"] = wait_for_lists(server)
        arm.figures["loading_peak_mib"] = server.usage().peak_bytes / 2**20
    begun = time.perf_counter()
    with our_server(folder) as server:
        arm.figures["start_s"] = time.perf_counter() - begun
        arm.figures["index"] = httpx.get(f"{server.url}/index").json()["routes"]["images"]
        for kind, spec in FILTERS.items():
            requests = [_body(row, spec, server.url) for row in queries()]
            if kind == "vector":
                arm.figures |= _own_shares(server, requests, seconds=seconds)
            loads = [drive(server.url, requests, clients=number, seconds=seconds) for number in clients]
            arm.rows[kind] = [load.row() | _hits(load, count, spec) for load in loads]
        arm.figures["peak_mib"] = server.usage().peak_bytes / 2**20
    return arm


def _body(vector: Vectors, spec: Mapping[str, Any] | None, url: str) -> bytes:
    body = {"vector": [round(value, 6) for value in vector.tolist()], "via": "images", "k": K}
    asked = body if spec is None else body | {"filter": spec}
    return post("/search", json.dumps(asked).encode(), host=url.removeprefix("http://"))


def _hits(load: Load, count: int, spec: Mapping[str, Any] | None) -> dict[str, float]:
    """How many hits came at least, of those that there were to find."""
    most = spec["share"]["lte"] if spec else None
    there = count if most is None else sum(metadata(number)["share"] <= most for number in range(count))
    fewest = min(len(json.loads(body)["hits"]) for body in load.bodies)
    return {"fewest_hits": fewest, "hits_to_find": min(K, there)}


def _own_shares(server: ServerProcess, requests: Sequence[bytes], *, seconds: float) -> dict[str, float]:
    """What one query at a time takes beside encoding and search, in milliseconds.

    `own_ms`: a client's time, median of the last answers. `own_inside_ms`: from the first line of the service's app to
    its last, as /metrics tells; a mean, which is what sums and counts give.
    """
    before = _sums(server)
    load = drive(server.url, requests, clients=1, seconds=seconds)
    spent = {name: value - before.get(name, 0.0) for name, value in _sums(server).items()}
    timings = [json.loads(body)["timings_ms"] for body in load.bodies]
    own = [
        taken * 1000 - told.get("encode", 0.0) - told["search"]
        for taken, told in zip(load.seconds[-len(timings) :], timings, strict=True)
    ]
    inside = spent["requests"] - spent.get("encode", 0.0) - spent["search"]
    return {"own_ms": float(statistics.median(own)), "own_inside_ms": inside / spent["count"] * 1000}


def _sums(server: ServerProcess) -> dict[str, float]:
    """Seconds of all searches so far: of the whole `requests`, of each step by its name; and their `count`."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text):
        for sample in family.samples:
            if sample.name == "dermnote_retrieval_search_step_seconds_sum":
                found[sample.labels["step"]] = sample.value
            elif sample.labels.get("handler") == "/search":
                part = {"_sum": "requests", "_count": "count"}.get(sample.name[sample.name.rfind("_") :])
                if part and "duration_seconds" in sample.name:
                    found[part] = sample.value
    return found


def load_ours(server: ServerProcess, count: int) -> float:
    """Seconds that a bulk load of all vectors takes. Raises SystemExit where one is not taken."""
    begun, first = time.perf_counter(), 0
    with httpx.Client(base_url=server.url, timeout=600) as client:
        for rows in clustered(count):
            content = lines(rows, first=first, model=f"{MODEL}-1")
            answer = client.post("/items/bulk", content=content, headers=NDJSON)
            if answer.text.count('"created"') != len(rows):
                raise SystemExit(f"a bulk load was not taken: {answer.text[:500]}")
            first += len(rows)
    return time.perf_counter() - begun


def wait_for_lists(server: ServerProcess, *, patience_s: float = 900) -> float | None:
    """Seconds until lists serve; None where the index stays flat."""
    begun = time.perf_counter()
    while time.perf_counter() - begun < patience_s:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            route = client.get("/index").json()["routes"]["images"]
        if route["vectors"] <= 200_000:
            return None
        if route["kind"] != "flat":
            return time.perf_counter() - begun
        time.sleep(0.5)
    raise SystemExit("no lists were built")


def run_clip_retrieval(count: int, *, folder: Path, clients: Sequence[int], seconds: float) -> Arm:
    """The same vectors behind clip-retrieval's handler, each with the metadata of one row."""
    arm = Arm("clip-retrieval", count)
    python = python_of()
    np.save(folder / "vectors.npy", np.concatenate(list(clustered(count))))
    (folder / "metadata").mkdir()
    write = (
        "import sys, pandas as pd; n = int(sys.argv[1]); "
        "pd.DataFrame({'caption': [f'note {i}' for i in range(n)], 'image_path': [f'i{i}' for i in range(n)]})"
        ".to_parquet(sys.argv[2])"
    )
    subprocess.run([str(python), "-c", write, str(count), str(folder / "metadata" / "0.parquet")], check=True)  # noqa: S603
    port = free_port()
    told = [str(folder / "vectors.npy"), str(folder / "metadata"), str(port)]
    command = [str(python), "-m", "lab.peers.clip_retrieval", *told]
    with server_process(command, url=f"http://{HOST}:{port}", ready_s=READY_S) as server:
        asked = {"modality": "image", "num_images": K, "indice_name": "all"}
        requests = [
            post(
                "/knn-service",
                json.dumps(asked | {"embedding_input": [round(value, 6) for value in row.tolist()]}).encode(),
                host=f"{HOST}:{port}",
            )
            for row in queries()
        ]
        loads = [drive(server.url, requests, clients=number, seconds=seconds) for number in clients]
        arm.rows["vector"] = [load.row() for load in loads]
        arm.figures["peak_mib"] = server.usage().peak_bytes / 2**20
    (folder / "vectors.npy").unlink()
    return arm


def run_faiss(count: int, *, seconds: float) -> Arm:
    """FAISS's flat index in this process, without any service: one query at a time, and 32 in a call."""
    import faiss  # noqa: PLC0415 - only this arm needs it

    arm = Arm("faiss alone", count)
    index = faiss.IndexFlatIP(DIM)
    for rows in clustered(count):
        index.add(rows)
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    asked = queries()
    arm.rows["vector"] = []
    for together in (1, 32):
        taken: list[float] = []
        while sum(taken) < seconds:
            start = (len(taken) * together) % (len(asked) - together)
            begun = time.perf_counter()
            index.search(asked[start : start + together], K)
            taken.append(time.perf_counter() - begun)
        load = Load(together, wall_s=sum(taken), seconds=taken)
        row = load.row()
        arm.rows["vector"].append(row | {"queries_per_s": row["queries_per_s"] * together})
    return arm


def run_images(
    pictures: Sequence[bytes], *, runtime: str, folder: Path, models: Path, clients: Sequence[int], seconds: float
) -> Arm:
    """Image queries through the `lite` towers, over these JPEG files' contents: what encoding together gives."""
    arm = Arm(f"lite, {runtime}", len(pictures))
    with our_server(folder, ENCODER=runtime, MODEL="lite", MODELS_DIR=str(models)) as server:
        with httpx.Client(base_url=server.url, timeout=120) as client:
            for number, picture in enumerate(pictures):
                client.put(f"/items/i{number}", files={"image": picture}).raise_for_status()
        requests = [_form(picture, server.url) for picture in pictures]
        loads = [drive(server.url, requests, clients=number, seconds=seconds) for number in clients]
        arm.rows["image"] = [load.row() for load in loads]
        alone = [json.loads(body)["timings_ms"]["encode"] for body in loads[0].bodies]
        arm.figures["encode_p50_ms"] = float(statistics.median(alone))
        arm.figures["peak_mib"] = server.usage().peak_bytes / 2**20
    return arm


def _form(picture: bytes, url: str) -> bytes:
    edge = "dermnote-benchmark"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\n\r\n'
    via = f'\r\n--{edge}\r\nContent-Disposition: form-data; name="via"\r\n\r\nimages\r\n--{edge}--\r\n'
    body = head.encode() + picture + via.encode()
    return post("/search", body, kind=f"multipart/form-data; boundary={edge}", host=url.removeprefix("http://"))
