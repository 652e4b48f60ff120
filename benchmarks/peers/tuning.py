"""Which settings are the best of llama.cpp's own server on this machine? One cold start for each combination.

Prompts and sampling are those of the notes (P2, or G with its grammar); every text goes through the verifier.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import llama_cpp

from benchmarks.engine import asked as asked_for
from benchmarks.peers.client import PeerBatch, PeerRequest, measure
from benchmarks.peers.llama_server import ServerSettings, context_for
from benchmarks.peers.process import ServerFailed, llama_server
from dermnote_contracts.notes import NoteRequest, Strategy
from dermnote_notegen import notes
from dermnote_notegen.engine.model import find_weights
from dermnote_notegen.priors import Priors, load_priors
from dermnote_notegen.render import Prompt, render
from dermnote_notegen.strategies import note_facts
from dermnote_notegen.verify import Verifier


@dataclass(frozen=True)
class Row:
    """One combination and what it came to. `error` is set, and `batch` None, where the server did not live through."""

    settings: ServerSettings
    concurrency: int
    batch: PeerBatch | None = None
    faithful: int = 0
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """The row's figures as JSON."""
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


def rendered(request: NoteRequest, *, priors: Priors) -> Prompt:
    """What the model is asked for a note."""
    facts, options = note_facts(request), request.options
    prior = priors.get(facts.diagnosis or "")
    return render(request.strategy, facts=facts, prior=prior, options=options, seed=options.seed or 0)


def peer_request(prompt: Prompt, *, seed: int) -> PeerRequest:
    """A prompt with the engine's own sampling: under a grammar the whole distribution, else llama_cpp.Llama's chain."""
    asked = PeerRequest(
        prompt=prompt.text,
        max_tokens=prompt.max_tokens,
        temperature=prompt.temperature,
        seed=seed,
        stop=prompt.stop,
        grammar=prompt.grammar,
    )
    return asked if prompt.grammar is None else replace(asked, top_p=1.0, top_k=0, min_p=0.0)


def most_tokens(asked: Sequence[PeerRequest], *, model: Path) -> int:
    """Tokens of the longest prompt with its answer."""
    vocabulary = llama_cpp.Llama(str(model), vocab_only=True, verbose=False)
    return max(len(vocabulary.tokenize(one.prompt.encode())) + one.max_tokens for one in asked)


def run(
    settings: ServerSettings, batch: Sequence[NoteRequest], *, priors: Priors, concurrency: int, python: Path
) -> Row:
    """One combination from a cold start."""
    asked = [peer_request(rendered(one, priors=priors), seed=one.options.seed or 0) for one in batch]
    row = Row(settings, concurrency)
    try:
        with llama_server(settings, python=python) as server:
            answered = measure(server, asked, concurrency=concurrency)
    except ServerFailed as error:
        return replace(row, error=str(error))
    return replace(row, batch=answered, faithful=faithful_texts(answered, batch, verifier=Verifier(priors)))


def faithful_texts(answered: PeerBatch, batch: Sequence[NoteRequest], *, verifier: Verifier) -> int:
    """How many of the answers, tidied as the service does it, pass the verifier."""
    count = 0
    for answer, request in zip(answered.answers, batch, strict=True):
        facts = note_facts(request)
        text = notes.tidy(answer.text, finished=answer.finish_reason == "stop")
        verdict = verifier.verify(text, facts=facts.stated, allowed=facts.allowed)
        count += answer.error is None and verdict.verification.faithful
    return count


def note_requests(count: int, *, strategy: Strategy, salt: int) -> list[NoteRequest]:
    """The requests of the engine's benchmark."""
    return [ask.request for ask in asked_for(count, strategy=strategy, salt=salt, priors=load_priors())]


def main() -> None:
    """Measure each combination, print one JSON line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["smollm2"], help="presets or GGUF files")
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--kv-unified", nargs="+", type=int, choices=(0, 1), default=[0, 1])
    parser.add_argument("--host-cache-mib", nargs="+", type=int, default=[8192])
    parser.add_argument("--reuse-tokens", nargs="+", type=int, default=[0])
    parser.add_argument("--micro-batch-tokens", nargs="+", type=int, default=[512])
    parser.add_argument("--waiting", type=int, default=0, help="requests that wait in the server beyond its slots")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--strategy", choices=("P2", "G"), default="P2")
    parser.add_argument("--notes", type=int, default=24)
    parser.add_argument("--salt", type=int, default=1, help="another salt, other requests")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="an interpreter that has xllamacpp")
    arguments = parser.parse_args()
    priors = load_priors()
    batch = note_requests(arguments.notes, strategy=arguments.strategy, salt=arguments.salt)
    models = [find_weights(model)[1] for model in arguments.models]
    asked = [peer_request(rendered(one, priors=priors), seed=0) for one in batch]
    longest = most_tokens(asked, model=models[0])
    for model, slots, unified, cache_mib, reuse, micro in itertools.product(
        models,
        arguments.slots,
        arguments.kv_unified,
        arguments.host_cache_mib,
        arguments.reuse_tokens,
        arguments.micro_batch_tokens,
    ):
        settings = ServerSettings(
            model=model,
            slots=slots,
            context_tokens=context_for(slots, request_tokens=longest),
            threads=arguments.threads,
            kv_unified=bool(unified),
            host_cache_mib=cache_mib,
            reuse_tokens=reuse,
            micro_batch_tokens=micro,
        )
        row = run(settings, batch, priors=priors, concurrency=slots + arguments.waiting, python=arguments.python)
        print(json.dumps({"strategy": arguments.strategy, "longest": longest} | row.record()), flush=True)


if __name__ == "__main__":
    main()
