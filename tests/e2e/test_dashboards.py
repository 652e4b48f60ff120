"""Every metric and Redis key that the dashboard and the scaler use exists on a running stack."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from dermnote_contracts.notes import NoteRequest
from dermnote_train.data.draw import draw_dataset
from dermnote_train.remote.notegen import NoteService
from dermnote_train.remote.retrieval import RetrievalService
from dermnote_train.remote.shards import NewItem
from stack.layout import read_layout
from tests.e2e.conftest import ROOT, Stack, wait_until

pytestmark = [pytest.mark.stack, pytest.mark.gguf]
DASHBOARD = ROOT / "compose" / "grafana" / "dashboards" / "dermnote.json"
SCALER = ROOT / "k8s"
METRIC = re.compile(r"\b(dermnote_\w+)(?:\{([^}]*)\})?")
GROUPED = re.compile(r"\bby \(([^)]*)\)")
# Added by Prometheus.
OF_PROMETHEUS = {"instance", "job"}
NOTES = 80

Exported = Mapping[str, dict[str, set[str]]]


def expressions() -> Iterator[tuple[str, str]]:
    """(title, query) of all panels."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def scraped(text: str) -> dict[str, dict[str, set[str]]]:
    """Sample name -> label names -> observed values."""
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


@pytest.fixture(scope="module")
def exported(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """All metrics of the three programs after each has done some work."""
    notes_url, retrieval_url = stack.environment["NOTEGEN_URL"], stack.environment["RETRIEVAL_URL"]
    pictures = draw_dataset(tmp_path_factory.mktemp("pictures") / "drawn", count=15, seed=0) / "images"
    with NoteService(notes_url) as notes, RetrievalService(retrieval_url) as retrieval:
        for strategy in ("M", "G"):  # by template, by the model
            body = {"metadata": {"diagnosis": "nevus", "age": 40}, "strategy": strategy}
            job = notes.submit(NoteRequest.model_validate(body), wait_s=60)
            assert job.status == "finished"
        picture = min(pictures.glob("*.jpg")).read_bytes()
        retrieval.put_item(NewItem("one", picture, "jpg", job.notes[0].text, {}, None))
        retrieval.search_image(picture, via="images")
        retrieval.take_snapshot()
    socket = read_layout(stack.home, stack.environment).sockets / "engine.sock"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as engine:
        pages = [engine.get("http://engine/metrics").text]
    pages += [httpx.get(f"{url}/metrics", timeout=30).text for url in (notes_url, retrieval_url)]
    return {name: labels for page in pages for name, labels in scraped(page).items()}


@pytest.mark.parametrize(("title", "query"), list(expressions()))
def test_a_panel_queries_exported_metrics(exported: Exported, title: str, query: str) -> None:
    metrics = METRIC.findall(query)
    assert metrics, f"{title}: no metric of ours"

    for name, selector in metrics:
        assert name in exported, f"{title}: nobody exports {name}"
        for label, values in re.findall(r'(\w+)\s*=~?"([^"]*)"', selector):
            seen = exported[name].get(label, set())
            assert set(values.split("|")) <= seen, f"{title}: {name} has no {label} {values}, but {seen}"
    grouped = {label.strip() for labels in GROUPED.findall(query) for label in labels.split(",")}
    known = set().union(*(exported[name].keys() for name, _ in metrics)) | OF_PROMETHEUS
    assert grouped <= known, f"{title}: no metric has {grouped - known}"


def scaled_lists() -> dict[str, str]:
    """Name of a trigger -> the Redis key whose length it watches, for all ScaledObjects."""
    documents = [
        document
        for path in sorted(SCALER.rglob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document and document.get("kind") == "ScaledObject"
    ]
    return {
        trigger["name"]: trigger["metadata"]["listName"] for one in documents for trigger in one["spec"]["triggers"]
    }


def length(redis: Redis, key: str) -> int:
    """A key's length as in KEDA's Redis scaler, by the key's type; 0 if it does not exist."""
    kind = redis.type(key).decode()
    lengths = {"list": redis.llen, "zset": redis.zcard, "set": redis.scard, "hash": redis.hlen, "none": lambda _: 0}
    return int(lengths[kind](key))


def test_the_scaler_watches_waiting_and_running_notes(stack: Stack) -> None:
    lists = scaled_lists()
    assert set(lists) == {"waiting", "running"}
    requests = [
        NoteRequest.model_validate({"metadata": {"diagnosis": "nevus", "age": age}, "options": {"seed": age}})
        for age in range(1, NOTES + 1)
    ]
    port = json.loads((stack.home / "stack.json").read_text())["redis_port"]
    most = dict.fromkeys(lists, 0)

    with NoteService(stack.environment["NOTEGEN_URL"]) as notes, Redis(port=port) as redis:
        batch = notes.submit_batch(requests)
        ends = time.monotonic() + 300
        while notes.batch(batch.id).ended < NOTES:
            assert time.monotonic() < ends
            most = {name: max(most[name], length(redis, key)) for name, key in lists.items()}
        assert most["waiting"] > 0
        assert most["running"] > 0
        wait_until(
            lambda: not any(length(redis, key) for key in lists.values()), timeout_s=30, what="nothing waits or runs"
        )


def test_prometheus_scrapes_exposed_ports() -> None:
    configuration = yaml.safe_load((ROOT / "compose" / "prometheus.yml").read_text())
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    targets = {
        (name, found["port"])
        for job in configuration["scrape_configs"]
        for found in job["dns_sd_configs"]
        for name in found["names"]
    }

    assert {name for name, _ in targets} <= set(compose["services"])
    exposed = {port for path in Path(ROOT / "services").glob("*/Dockerfile") for port in exposed_ports(path)}
    assert {port for _, port in targets} <= exposed


def exposed_ports(path: Path) -> list[int]:
    return [int(port) for port in re.findall(r"^EXPOSE (\d+)$", path.read_text(), re.MULTILINE)]
