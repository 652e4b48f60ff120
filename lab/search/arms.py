"""The arms of the search benchmark: our service, clip-retrieval's service, and FAISS without a service."""

import json
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

from dermnote_contracts.cpu import usable_cores
from lab.peers.clip_retrieval import python_of
from lab.peers.process import ServerProcess, server_process
from lab.search.load import Load, drive, post
from lab.search.vectors import DIM, Vectors, clustered, keeping, lines, metadata
from stack.layout import free_port

HOST = "127.0.0.1"
MODEL = "dummy-512"
K = 10
READY_S = 900
NDJSON = {"Content-Type": "application/x-ndjson"}
FILTERS = {"vector": None, "50 %": keeping(0.5), "1 %": keeping(0.01), "0.01 %": keeping(0.0001)}
# Queries come from the same clusters as the stored vectors, but are not among them.
QUERY_SEED = 99


@dataclass
class Arm:
    """One arm's measurements with `vectors` stored vectors. `rows`: kind of query -> one row per number of clients."""

    name: str
    vectors: int
    rows: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    measurements: dict[str, Any] = field(default_factory=dict)


def queries(count: int = 500) -> Vectors:
    """Unit vectors [count, DIM] to search with."""
    return np.concatenate(list(clustered(count, seed=QUERY_SEED)))


@contextmanager
def our_server(folder: Path, **settings: str) -> Iterator[ServerProcess]:
    """The retrieval service with a dummy encoder. `settings`: other settings, named without the RETRIEVAL_ prefix."""
    port = free_port()
    values = {"DATA_DIR": str(folder), "PORT": str(port), "ENCODER": "dummy", "MODEL": MODEL} | settings
    with server_process(
        [sys.executable, "-m", "dermnote_retrieval"],
        url=f"http://{HOST}:{port}",
        environment={f"RETRIEVAL_{name}": value for name, value in values.items()},
        healthy="/health/ready",
        ready_s=READY_S,
    ) as process:
        yield process


def run_ours(count: int, *, folder: Path, clients: Sequence[int], seconds: float) -> Arm:
    """Load the vectors, restart the service, and search by vector, without and with filters."""
    arm = Arm("dermnote", count)
    with our_server(folder) as server:
        arm.measurements["items_loaded_per_s"] = count / load_ours(server, count)
        arm.measurements["lists_built_s"] = wait_for_lists(server)
        arm.measurements["loading_peak_mib"] = server.usage().peak_bytes / 2**20
    started = time.perf_counter()
    with our_server(folder) as server:
        arm.measurements["start_s"] = time.perf_counter() - started
        arm.measurements["index"] = httpx.get(f"{server.url}/index").json()["routes"]["images"]
        for kind, spec in FILTERS.items():
            requests = [_search_request(row, spec, server.url) for row in queries()]
            if kind == "vector":
                arm.measurements |= _service_overhead(server, requests, seconds=seconds)
            loads = [drive(server.url, requests, clients=number, seconds=seconds) for number in clients]
            arm.rows[kind] = [load.row() | _hits(load, count, spec) for load in loads]
        arm.measurements["peak_mib"] = server.usage().peak_bytes / 2**20
    return arm


def _search_request(vector: Vectors, spec: Mapping[str, Any] | None, url: str) -> bytes:
    body = {"vector": [round(value, 6) for value in vector.tolist()], "via": "images", "k": K}
    content = body if spec is None else body | {"filter": spec}
    return post("/search", json.dumps(content).encode(), host=url.removeprefix("http://"))


def _hits(load: Load, count: int, spec: Mapping[str, Any] | None) -> dict[str, float]:
    """Number of hits in the shortest response, and in a complete one."""
    limit = spec["share"]["lte"] if spec else None
    matching = count if limit is None else sum(metadata(number)["share"] <= limit for number in range(count))
    fewest = min(len(json.loads(body)["hits"]) for body in load.bodies)
    return {"fewest_hits": fewest, "hits_to_find": min(K, matching)}


def _service_overhead(server: ServerProcess, requests: Sequence[bytes], *, seconds: float) -> dict[str, float]:
    """Milliseconds per query that neither encoding nor the index search takes; queries are sent one at a time.

    `own_ms`: the median of the last responses, measured by the client. `own_inside_ms`: the mean, measured inside the
    service and calculated from the sums and counts at /metrics.
    """
    before = _search_seconds(server)
    load = drive(server.url, requests, clients=1, seconds=seconds)
    during = {name: value - before.get(name, 0.0) for name, value in _search_seconds(server).items()}
    timings = [json.loads(body)["timings_ms"] for body in load.bodies]
    own = [
        seconds_taken * 1000 - steps.get("encode", 0.0) - steps["search"]
        for seconds_taken, steps in zip(load.seconds[-len(timings) :], timings, strict=True)
    ]
    inside = during["requests"] - during.get("encode", 0.0) - during["search"]
    return {"own_ms": float(statistics.median(own)), "own_inside_ms": inside / during["count"] * 1000}


def _search_seconds(server: ServerProcess) -> dict[str, float]:
    """Totals of all searches so far: seconds of whole `requests`, seconds of each step, and the `count` of searches."""
    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(httpx.get(f"{server.url}/metrics").text):
        for sample in family.samples:
            if sample.name == "dermnote_retrieval_search_step_seconds_sum":
                totals[sample.labels["step"]] = sample.value
            elif sample.labels.get("handler") == "/search":
                part = {"_sum": "requests", "_count": "count"}.get(sample.name[sample.name.rfind("_") :])
                if part and "duration_seconds" in sample.name:
                    totals[part] = sample.value
    return totals


def load_ours(server: ServerProcess, count: int) -> float:
    """Bulk-load all vectors; returns the seconds taken. Raises SystemExit if a vector is rejected."""
    started, first = time.perf_counter(), 0
    with httpx.Client(base_url=server.url, timeout=600) as client:
        for rows in clustered(count):
            content = lines(rows, first=first, model=f"{MODEL}-1")
            response = client.post("/items/bulk", content=content, headers=NDJSON)
            if response.text.count('"created"') != len(rows):
                raise SystemExit(f"a bulk load was not stored completely: {response.text[:500]}")
            first += len(rows)
    return time.perf_counter() - started


def wait_for_lists(server: ServerProcess, *, timeout_s: float = 900) -> float | None:
    """Wait until searches use inverted lists; returns the seconds, or None if the index stays flat."""
    started = time.perf_counter()
    while time.perf_counter() - started < timeout_s:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            route = client.get("/index").json()["routes"]["images"]
        if route["vectors"] <= 200_000:
            return None
        if route["kind"] != "flat":
            return time.perf_counter() - started
        time.sleep(0.5)
    raise SystemExit(f"the inverted lists were not built within {timeout_s:g} s")


def run_clip_retrieval(count: int, *, folder: Path, clients: Sequence[int], seconds: float) -> Arm:
    """clip-retrieval's handler over the same vectors, with one row of metadata per vector."""
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
    arguments = [str(folder / "vectors.npy"), str(folder / "metadata"), str(port)]
    command = [str(python), "-m", "lab.peers.clip_retrieval", *arguments]
    with server_process(command, url=f"http://{HOST}:{port}", ready_s=READY_S) as server:
        options = {"modality": "image", "num_images": K, "indice_name": "all"}
        requests = [
            post(
                "/knn-service",
                json.dumps(options | {"embedding_input": [round(value, 6) for value in row.tolist()]}).encode(),
                host=f"{HOST}:{port}",
            )
            for row in queries()
        ]
        loads = [drive(server.url, requests, clients=number, seconds=seconds) for number in clients]
        arm.rows["vector"] = [load.row() for load in loads]
        arm.measurements["peak_mib"] = server.usage().peak_bytes / 2**20
    (folder / "vectors.npy").unlink()
    return arm


def run_faiss(count: int, *, seconds: float) -> Arm:
    """FAISS's flat index in this process: one query per call, and 32 per call."""
    import faiss  # noqa: PLC0415 - only this arm needs it

    arm = Arm("faiss alone", count)
    index = faiss.IndexFlatIP(DIM)
    for rows in clustered(count):
        index.add(rows)
    faiss.omp_set_num_threads(usable_cores())
    query_vectors = queries()
    arm.rows["vector"] = []
    for batch_size in (1, 32):
        call_seconds: list[float] = []
        while sum(call_seconds) < seconds:
            start = (len(call_seconds) * batch_size) % (len(query_vectors) - batch_size)
            started = time.perf_counter()
            index.search(query_vectors[start : start + batch_size], K)
            call_seconds.append(time.perf_counter() - started)
        load = Load(batch_size, wall_s=sum(call_seconds), seconds=call_seconds)
        row = load.row()
        arm.rows["vector"].append(row | {"queries_per_s": row["queries_per_s"] * batch_size})
    return arm


def run_images(
    images: Sequence[bytes], *, runtime: str, folder: Path, models: Path, clients: Sequence[int], seconds: float
) -> Arm:
    """Search by image through the `lite` towers, which shows the gain from batched encoding. `images`: JPEG files."""
    arm = Arm(f"lite, {runtime}", len(images))
    with our_server(folder, ENCODER=runtime, MODEL="lite", MODELS_DIR=str(models)) as server:
        with httpx.Client(base_url=server.url, timeout=120) as client:
            for number, image in enumerate(images):
                client.put(f"/items/i{number}", files={"image": image}).raise_for_status()
        requests = [_image_request(image, server.url) for image in images]
        loads = [drive(server.url, requests, clients=number, seconds=seconds) for number in clients]
        arm.rows["image"] = [load.row() for load in loads]
        encode_ms = [json.loads(body)["timings_ms"]["encode"] for body in loads[0].bodies]
        arm.measurements["encode_p50_ms"] = float(statistics.median(encode_ms))
        arm.measurements["peak_mib"] = server.usage().peak_bytes / 2**20
    return arm


def _image_request(image: bytes, url: str) -> bytes:
    boundary = "dermnote-benchmark"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="x.jpg"\r\n\r\n'
    via = f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="via"\r\n\r\nimages\r\n--{boundary}--\r\n'
    body = head.encode() + image + via.encode()
    return post("/search", body, kind=f"multipart/form-data; boundary={boundary}", host=url.removeprefix("http://"))
