"""The set-up that all arms of the benchmark share: weights in every layout, threads, requests and verifier."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dermnote_contracts.notes import Strategy
from dermnote_notegen.verify import Verifier
from dermnote_notegen.writing.priors import Priors
from lab.peers.llama_server import ServerSettings, context_for
from lab.peers.plain_llama import PlainSettings
from lab.throughput.arms import REQUEST_TOKENS, Run, run_ours, run_plain, run_server
from lab.throughput.requests import BenchRequest, Facts, Mix, make_requests
from lab.throughput.selection import Candidate

PLAIN_CONTEXT_TOKENS = 2048
SHARED = Mix(facts="shared")
SOURCE = "source"  # the original weights


@dataclass(frozen=True)
class Bench:
    """Runs single rounds of an arm. `files`: weights by layout; `folder`: for sockets; `salt`: seed of the requests."""

    files: Mapping[str, Path]
    folder: Path
    threads: int
    priors: Priors
    verifier: Verifier
    mix: Mix = SHARED

    def batch(self, strategy: Strategy, *, salt: int, notes: int, facts: Facts | None = None) -> list[BenchRequest]:
        """The requests of a round; a smaller batch is a prefix of a larger one."""
        mix = self.mix if facts is None else Mix(self.mix.diagnoses, facts)
        return make_requests(notes, strategy=strategy, salt=salt, priors=self.priors, mix=mix)

    def ours(
        self, arm: str, strategy: Strategy, *, slots: int, salt: int, notes: int, facts: Facts | None = None
    ) -> Run:
        """Run our engine, which selects its layout itself, after a cold start. `facts` overrides `mix.facts`."""
        batch = self.batch(strategy, salt=salt, notes=notes, facts=facts)
        return run_ours(arm, batch, slots=slots, folder=self.folder, verifier=self.verifier)

    def server(self, arm: str, strategy: Strategy, candidate: Candidate, *, salt: int, notes: int) -> Run:
        """Run llama.cpp's server after a cold start. Raises ServerFailed."""
        settings = ServerSettings(
            model=self.files[candidate.layout],
            slots=candidate.slots,
            context_tokens=context_for(candidate.slots, request_tokens=REQUEST_TOKENS),
            threads=self.threads,
        )
        batch = self.batch(strategy, salt=salt, notes=notes)
        return run_server(arm, batch, settings=settings, verifier=self.verifier)

    def plain(self, arm: str, candidate: Candidate, *, salt: int, notes: int) -> Run:
        """Run plain llama_cpp.Llama with strategy P2 after a cold start."""
        model = self.files[candidate.layout]
        settings = PlainSettings(model, context_tokens=PLAIN_CONTEXT_TOKENS, threads=self.threads)
        batch = self.batch("P2", salt=salt, notes=notes)
        return run_plain(arm, batch, settings=settings, verifier=self.verifier)


def layouts(names: Iterable[str], *, source: Path, folder: Path) -> dict[str, Path]:
    """The weights in each layout, written into the folder. Raises OSError if llama.cpp cannot write a layout."""
    from dermnote_notegen.engine.llama import quantize  # noqa: PLC0415 - loads llama.cpp

    files = {SOURCE: source}
    for name in dict.fromkeys(names):
        if name != SOURCE:
            files[name] = folder / f"{name}.gguf"
            quantize(source, files[name], name)
    return files
