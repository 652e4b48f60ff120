"""Plain llama_cpp.Llama in a loop, in its own process: the program that most people write first.

    python -m lab.peers.plain_llama < requests.json > answers.json

llama_cpp.Llama does not recompute the prefix that a prompt shares with the previous one.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lab.peers.client import PeerRequest

ROOT = Path(__file__).resolve().parents[2]
SPINS = "1000"


@dataclass(frozen=True)
class PlainSettings:
    """Settings of llama_cpp.Llama. `context_tokens`: the length of its only sequence."""

    model: Path
    context_tokens: int
    threads: int = 2


@dataclass(frozen=True)
class PlainAnswer:
    """One text. `prefilled_tokens`: prompt tokens after the prefix that is shared with the previous prompt."""

    text: str
    finished: bool
    sampled_tokens: int
    prefilled_tokens: int


@dataclass(frozen=True)
class PlainBatch:
    """The answers in the order of the requests, wall time without loading the model, and peak resident memory."""

    answers: Sequence[PlainAnswer]
    wall_s: float
    peak_bytes: int


def plain_llama(requests: Sequence[PeerRequest], settings: PlainSettings) -> PlainBatch:
    """Run a batch in a new process. Raises subprocess.CalledProcessError if it fails."""
    work = {
        "settings": asdict(settings) | {"model": str(settings.model)},
        "requests": [asdict(one) for one in requests],
    }
    done = subprocess.run(
        [sys.executable, "-m", "lab.peers.plain_llama"],
        input=json.dumps(work).encode(),
        stdout=subprocess.PIPE,
        check=True,
        cwd=ROOT,
        env=os.environ | {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", SPINS)},
    )
    return TypeAdapter(PlainBatch).validate_json(done.stdout)


def complete(llama: Any, request: PeerRequest) -> PlainAnswer:
    """Complete one request; a prefix shared with the previous prompt is not computed again. Ignores `grammar`."""
    import llama_cpp  # noqa: PLC0415 - only the child loads it

    prompt = llama.tokenize(request.prompt.encode(), add_bos=True, special=False)
    held = llama.input_ids[: llama.n_tokens].tolist()
    shared = min(llama_cpp.Llama.longest_token_prefix(held, prompt), len(prompt) - 1)
    answer = llama.create_completion(
        prompt,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        seed=request.seed,
        stop=list(request.stop),
    )
    choice = answer["choices"][0]
    return PlainAnswer(
        text=choice["text"],
        finished=choice["finish_reason"] == "stop",
        sampled_tokens=answer["usage"]["completion_tokens"],
        prefilled_tokens=len(prompt) - shared,
    )


def main() -> None:
    """Read settings and requests from stdin, write the batch to stdout."""
    import llama_cpp  # noqa: PLC0415 - only the child loads it

    work = json.load(sys.stdin)
    settings = TypeAdapter(PlainSettings).validate_python(work["settings"] | {"model": Path(work["settings"]["model"])})
    requests = TypeAdapter(list[PeerRequest]).validate_python(work["requests"])
    llama = llama_cpp.Llama(
        str(settings.model),
        n_ctx=settings.context_tokens,
        n_threads=settings.threads,
        n_threads_batch=settings.threads,
        verbose=False,
    )
    started = time.perf_counter()
    answers = [complete(llama, request) for request in requests]
    wall_s = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    sys.stdout.write(json.dumps(asdict(PlainBatch(answers, wall_s, peak))))


if __name__ == "__main__":
    main()
