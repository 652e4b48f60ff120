"""Find the best settings of llama.cpp's own server on this machine; each combination starts cold.

The requests are those of notes (strategy P2, or G with its grammar); the verifier checks every text.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dermnote_notegen.engine.model import find_weights
from dermnote_notegen.verify import Verifier
from dermnote_notegen.writing.priors import load_priors
from lab.peers.client import PeerBatch, PeerRequest, measure
from lab.peers.llama_server import ServerSettings, context_for
from lab.peers.process import ServerFailed, llama_server
from lab.throughput.arms import is_faithful, server_text
from lab.throughput.requests import BenchRequest, make_requests, peer_request


@dataclass(frozen=True)
class Result:
    """One combination and its result. If the server failed, `error` is set and `batch` is None."""

    settings: ServerSettings
    concurrency: int
    batch: PeerBatch | None = None
    faithful: int = 0
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """The result as JSON values."""
        head = {
            "model": self.settings.model.name,
            "slots": self.settings.slots,
            "kv_unified": self.settings.kv_unified,
            "host_cache_mib": self.settings.host_cache_mib,
            "reuse_tokens": self.settings.reuse_tokens,
            "micro_batch_tokens": self.settings.micro_batch_tokens,
            "concurrency": self.concurrency,
        }
        if self.batch is None:
            return head | {"error": self.error}
        return head | {
            "sampled_per_s": round(self.batch.sampled_per_s, 1),
            "prefilled_per_s": round(self.batch.prefilled_per_s, 1),
            "notes_per_s": round(self.batch.answered_per_s, 3),
            "faithful_notes_per_s": round(self.faithful / self.batch.wall_s, 3),
            "notes": len(self.batch.answers),
            "faithful": self.faithful,
            "failed": len(self.batch.errors),
            "first_error": next(iter(self.batch.errors), None),
            "wall_s": round(self.batch.wall_s, 2),
            "cpu_s": round(self.batch.cpu_s, 2),
            "others_cpu_s": round(self.batch.others_cpu_s, 2),
            "peak_mib": self.batch.peak_bytes >> 20,
        }


def most_tokens(requests: Sequence[PeerRequest], *, model: Path) -> int:
    """Tokens of the longest prompt with its completion."""
    import llama_cpp  # noqa: PLC0415 - only this function needs it; the server uses xllamacpp

    vocabulary = llama_cpp.Llama(str(model), vocab_only=True, verbose=False)
    return max(len(vocabulary.tokenize(one.prompt.encode())) + one.max_tokens for one in requests)


def run(
    settings: ServerSettings, batch: Sequence[BenchRequest], *, verifier: Verifier, concurrency: int, python: Path
) -> Result:
    """Measure one combination from a cold start."""
    requests = [peer_request(ask.completion) for ask in batch]
    result = Result(settings, concurrency)
    try:
        with llama_server(settings, python=python) as server:
            answered = measure(server, requests, concurrency=concurrency)
    except ServerFailed as error:
        return replace(result, error=str(error))
    texts = [server_text(answer) for answer in answered.answers]
    faithful = sum(is_faithful(ask, text, verifier=verifier) for ask, text in zip(batch, texts, strict=True))
    return replace(result, batch=answered, faithful=faithful)


def combinations(arguments: argparse.Namespace, *, longest: int) -> Iterator[ServerSettings]:
    """Every combination of the settings. `longest`: tokens of the longest prompt with its completion."""
    for path, slots, unified, cache_mib, reuse, micro in itertools.product(
        [find_weights(model)[1] for model in arguments.models],
        arguments.slots,
        arguments.kv_unified,
        arguments.host_cache_mib,
        arguments.reuse_tokens,
        arguments.micro_batch_tokens,
    ):
        yield ServerSettings(
            model=path,
            slots=slots,
            context_tokens=context_for(slots, request_tokens=longest),
            threads=arguments.threads,
            kv_unified=bool(unified),
            host_cache_mib=cache_mib,
            reuse_tokens=reuse,
            micro_batch_tokens=micro,
        )


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["smollm2"], help="presets of models, or GGUF files")
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--kv-unified", nargs="+", type=int, choices=(0, 1), default=[0, 1])
    parser.add_argument("--host-cache-mib", nargs="+", type=int, default=[8192])
    parser.add_argument("--reuse-tokens", nargs="+", type=int, default=[0])
    parser.add_argument("--micro-batch-tokens", nargs="+", type=int, default=[512])
    parser.add_argument("--waiting", type=int, default=0, help="requests queued in the server in addition to its slots")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--strategy", choices=("P2", "G"), default="P2")
    parser.add_argument("--notes", type=int, default=24)
    parser.add_argument("--salt", type=int, default=1, help="seed of the requests")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="an interpreter with xllamacpp")
    return parser.parse_args(given)


def main() -> None:
    """Measure every combination and print one JSON line per combination."""
    arguments = read_arguments()
    priors = load_priors()
    verifier = Verifier(priors)
    batch = make_requests(arguments.notes, strategy=arguments.strategy, salt=arguments.salt, priors=priors)
    requests = [peer_request(ask.completion) for ask in batch]
    longest = most_tokens(requests, model=find_weights(arguments.models[0])[1])
    for settings in combinations(arguments, longest=longest):
        concurrency = settings.slots + arguments.waiting
        result = run(settings, batch, verifier=verifier, concurrency=concurrency, python=arguments.python)
        print(json.dumps({"strategy": arguments.strategy, "longest": longest} | result.record()), flush=True)


if __name__ == "__main__":
    main()
