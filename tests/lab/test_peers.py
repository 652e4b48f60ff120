"""Client and process of lab.peers, tested with a small HTTP server and, if installed, llama.cpp's server."""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dermnote_notegen.engine.model import find_weights
from lab.peers.client import PeerAnswer, PeerBatch, PeerRequest, complete_all, measure
from lab.peers.llama_server import HOST, ServerSettings, context_for, read_arguments
from lab.peers.process import ServerFailed, ServerProcess, llama_server, server_process
from tests.ports import free_port

COMPLETION = {
    "content": " A nevus.",
    "tokens_predicted": 4,
    "truncated": False,
    "stop_type": "eos",
    "timings": {"cache_n": 5, "prompt_n": 7, "prompt_ms": 1.5},
    "model": "fake",
}


@dataclass
class FakePeer:
    """The fake server's answers by prompt (status, body), its received bodies, and its peak concurrency."""

    answers: Mapping[str, tuple[int, bytes]] = field(default_factory=dict)
    pause_s: float = 0.0
    received: list[dict[str, Any]] = field(default_factory=list)
    concurrent: int = 0
    peak_concurrency: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: dict[str, Any]) -> tuple[int, bytes]:
        with self.lock:
            self.received.append(body)
            self.concurrent += 1
            self.peak_concurrency = max(self.peak_concurrency, self.concurrent)
        time.sleep(self.pause_s)
        with self.lock:
            self.concurrent -= 1
        text = COMPLETION | {"content": f" {body['prompt']}"}
        return self.answers.get(body["prompt"], (200, json.dumps(text).encode()))


@contextmanager
def serving(fake: FakePeer) -> Iterator[str]:
    """Serve the fake and yield its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            assert self.path == "/completion"
            status, body = fake.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if status == 0:  # hang up without a word
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def request(prompt: str, **settings: Any) -> PeerRequest:
    return PeerRequest(prompt, **({"max_tokens": 8, "temperature": 0.3, "seed": 1} | settings))


def ask(fake: FakePeer, *requests: PeerRequest, concurrency: int = 4, timeout_s: float = 10) -> list[PeerAnswer]:
    with serving(fake) as url:
        return list(asyncio.run(complete_all(url, requests, concurrency=concurrency, timeout_s=timeout_s)))


def test_a_completion_arrives_with_its_counts() -> None:
    (answer,) = ask(FakePeer(), request("one"))

    assert (answer.text, answer.finish_reason, answer.error) == (" one", "stop", None)
    assert (answer.sampled_tokens, answer.prefilled_tokens, answer.cached_tokens) == (4, 7, 5)
    assert answer.seconds > 0


def test_all_fields_of_a_request_are_sent() -> None:
    fake = FakePeer()

    ask(fake, request("one", top_p=1.0, top_k=0, min_p=0.0, stop=("\n",), grammar='root ::= " a"'))

    assert fake.received == [
        {
            "prompt": "one",
            "n_predict": 8,
            "temperature": 0.3,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "seed": 1,
            "stop": ["\n"],
            "grammar": 'root ::= " a"',
            "samplers": ["top_k", "top_p", "min_p", "temperature"],
            "cache_prompt": True,
            "stream": False,
        }
    ]


def test_a_missing_grammar_is_not_sent() -> None:
    fake = FakePeer()

    ask(fake, request("one"))

    assert "grammar" not in fake.received[0]


def test_answers_keep_the_order_and_concurrency_is_limited() -> None:
    fake = FakePeer(pause_s=0.02)
    prompts = [f"prompt {number}" for number in range(12)]

    answers = ask(fake, *map(request, prompts), concurrency=3)

    assert [answer.text for answer in answers] == [f" {prompt}" for prompt in prompts]
    assert fake.peak_concurrency == 3


@pytest.mark.parametrize(
    ("stop_type", "finish_reason"), [("eos", "stop"), ("word", "stop"), ("limit", "length"), ("none", "length")]
)
def test_the_finish_reason_is_derived_from_the_stop_type(stop_type: str, finish_reason: str) -> None:
    body = json.dumps(COMPLETION | {"stop_type": stop_type}).encode()

    (answer,) = ask(FakePeer({"one": (200, body)}), request("one"))

    assert answer.finish_reason == finish_reason


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((500, b'{"error": {"code": 500, "message": "Context size has been exceeded."}}'), "HTTP 500: Context size"),
        ((503, b"busy"), "HTTP 503: busy"),
        ((200, b'{"content": "no counts"}'), "not a completion: "),
        ((200, b"<html>"), "not a completion: "),
        ((200, json.dumps(COMPLETION | {"truncated": True}).encode()), "the context was too small"),
        ((0, b""), "RemoteProtocolError: "),
    ],
)
def test_a_failed_request_is_counted_and_does_not_affect_others(answer: tuple[int, bytes], error: str) -> None:
    good, bad, last = ask(FakePeer({"bad": answer}), request("good"), request("bad"), request("last"), concurrency=1)

    assert bad.error is not None
    assert bad.error.startswith(error)
    assert (good.error, last.error) == (None, None)


def test_a_timeout_is_an_error() -> None:
    (answer,) = ask(FakePeer(pause_s=0.5), request("one"), timeout_s=0.1)

    assert answer.error is not None
    assert answer.error.startswith("ReadTimeout")


def test_an_unreachable_server_is_an_error_for_each_request() -> None:
    requests = [request("one"), request("two")]

    answers = asyncio.run(complete_all(f"http://{HOST}:{free_port()}", requests, concurrency=2))

    assert [answer.error is not None and answer.error.startswith("ConnectError") for answer in answers] == [True, True]


def test_a_batch_reports_time_and_memory(tmp_path: Path) -> None:
    with serving(FakePeer({"bad": (500, b"")}, pause_s=0.01)) as url:
        server = ServerProcess(url=url, pid=os.getpid(), log=tmp_path / "none")
        batch = measure(server, [request("one"), request("bad"), request("two")], concurrency=1)

    assert batch.wall_s >= 0.03
    assert batch.cpu_s >= 0
    assert batch.peak_bytes > 1 << 20
    assert [error[:8] for error in batch.errors] == ["HTTP 500"]


def test_rates_count_only_answered_requests() -> None:
    answered = PeerAnswer(text="a", finish_reason="stop", sampled_tokens=10, prefilled_tokens=30)
    failed = PeerAnswer(error="HTTP 500", sampled_tokens=3)

    batch = PeerBatch([answered, answered, failed], wall_s=2, cpu_s=0, others_cpu_s=0, peak_bytes=0)

    assert (batch.answered_per_s, batch.sampled_per_s, batch.prefilled_per_s) == (1, 10, 30)


def test_settings_round_trip_through_the_command_line() -> None:
    settings = ServerSettings(Path("some file.gguf"), slots=4, context_tokens=2048, kv_unified=True, host_cache_mib=0)

    assert read_arguments(settings.arguments(port=8090)) == (settings, 8090)


@pytest.mark.parametrize(("request_tokens", "cells"), [(1, 256), (256, 256), (257, 512), (472, 512)])
def test_the_context_holds_the_longest_request_in_every_slot(request_tokens: int, cells: int) -> None:
    assert context_for(4, request_tokens=request_tokens) == 4 * cells


def healthy(port: int, *, then: str = "") -> list[str]:
    """A command that responds to every GET with 200."""
    program = f"""
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); {then}
http.server.HTTPServer(("{HOST}", {port}), Handler).serve_forever()
"""
    return [sys.executable, "-c", program]


def test_a_server_runs_inside_the_block_only() -> None:
    port = free_port()

    with server_process(healthy(port), url=f"http://{HOST}:{port}") as server:
        used = server.usage()

    assert used.peak_bytes > 1 << 20
    assert used.cpu_s > 0
    assert not Path("/proc", str(server.pid)).exists()
    assert not server.log.exists()


def test_the_server_ends_if_the_block_raises() -> None:
    port, seen = free_port(), []

    def fail() -> None:
        with server_process(healthy(port), url=f"http://{HOST}:{port}") as server:
            seen.append(server.pid)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    assert not Path("/proc", str(seen[0])).exists()


def test_a_server_that_exits_at_once_raises_with_its_log() -> None:
    command = [sys.executable, "-c", "import sys; print('no such model'); sys.exit(3)"]

    with (
        pytest.raises(ServerFailed, match=r"code 3 before it was ready\nno such model"),
        server_process(command, url=f"http://{HOST}:{free_port()}"),
    ):
        pass


def test_a_server_that_never_serves_raises_with_its_log() -> None:
    command = [sys.executable, "-c", "import time; print('loading', flush=True); time.sleep(60)"]

    with (
        pytest.raises(ServerFailed, match=r"was not ready within 0.5 s\nloading"),
        server_process(command, url=f"http://{HOST}:{free_port()}", ready_s=0.5),
    ):
        pass


def test_a_server_that_dies_during_a_batch_raises() -> None:
    port = free_port()
    command = healthy(port, then="print('assertion failed', flush=True); import os; os._exit(6)")

    with (
        server_process(command, url=f"http://{HOST}:{port}") as server,
        pytest.raises(ServerFailed, match=r"is gone\n(.*\n)*assertion failed"),
    ):
        measure(server, [request("one")], concurrency=1)


needs_xllamacpp = pytest.mark.skipif(
    find_spec("xllamacpp") is None, reason="xllamacpp (llama.cpp's own server) is not installed in this environment"
)


@needs_xllamacpp
@pytest.mark.gguf
def test_llama_cpps_own_server_completes_under_a_grammar() -> None:
    settings = ServerSettings(find_weights("smollm2")[1], slots=2, context_tokens=context_for(2, request_tokens=64))
    requests = [
        request("A mole is a", grammar='root ::= " benign" | " harmless"', temperature=1.0),
        request("The lesion is on the", temperature=0),
    ]

    with llama_server(settings) as server:
        batch = measure(server, requests, concurrency=2)

    constrained, free = batch.answers
    assert batch.errors == []
    assert constrained.text in (" benign", " harmless")
    assert constrained.finish_reason == "stop"
    assert (free.sampled_tokens, free.finish_reason) == (8, "length")


@needs_xllamacpp
def test_llama_cpps_own_server_rejects_an_invalid_model_file(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    settings = ServerSettings(tmp_path / "bad.gguf", slots=1, context_tokens=256)

    with pytest.raises(ServerFailed, match="before it was ready"), llama_server(settings):
        pass
