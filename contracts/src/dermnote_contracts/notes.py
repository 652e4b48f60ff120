"""The note service's HTTP bodies: NoteRequest in, NoteJob and Batch out."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from dermnote_contracts.metadata import LesionMetadata
from dermnote_contracts.problems import Problem

Strategy = Literal["M", "P1", "P2", "P3", "G"]
Topic = Literal["diagnosis", "demographics", "site", "history", "symptoms", "findings"]
Status = Literal["queued", "running", "finished", "failed", "cancelled"]
OnUnfaithful = Literal["retry", "fallback", "reject", "keep"]

ALL_TOPICS: frozenset[Topic] = frozenset(("diagnosis", "demographics", "site", "history", "symptoms", "findings"))
ENDED: frozenset[Status] = frozenset(("finished", "failed", "cancelled"))
MAX_BATCH = 1000


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class NoteOptions(_Body):
    """How the note is written. A seed left out is drawn and reported in the provenance.

    `deterministic`: the same request with the same seed gives the same note, whatever else is written meanwhile. Such
    requests run one at a time. A server that takes the place of Dermnote's engine gets the seed alone.
    """

    seed: int | None = Field(default=None, ge=0, lt=2**31)
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_words: int | None = Field(default=None, ge=10, le=250)
    n: int = Field(default=1, ge=1, le=8)
    on_unfaithful: OnUnfaithful = "retry"
    deterministic: bool = False


class NoteRequest(_Body):
    """One lesion's facts and how to write about them."""

    metadata: LesionMetadata
    strategy: Strategy = "G"
    include: frozenset[Topic] = ALL_TOPICS
    options: NoteOptions = NoteOptions()

    @field_serializer("include")
    def _in_one_order(self, topics: frozenset[Topic]) -> list[Topic]:
        """Equal requests are equal JSON in every process (a set's own order changes with the hash seed)."""
        return sorted(topics)


class BatchRequest(_Body):
    """Up to 1000 note requests; the answer keeps their order."""

    items: Annotated[list[NoteRequest], Field(min_length=1, max_length=MAX_BATCH)]


class StatedFact(_Body):
    """A fact found in the note's text. `start`, `end`: code points, half open."""

    field: str
    value: Any
    start: int
    end: int


class Claim(_Body):
    """Something the note says that it should not, with its place in the text."""

    field: str
    text: str
    start: int
    end: int


class Verification(_Body):
    """The verdict on one note. `coverage`: share of the required facts that the note states, 0 to 1."""

    faithful: bool
    coverage: float = Field(ge=0, le=1)
    unsupported: list[Claim] = []
    contradicted: list[Claim] = []
    missing: list[str] = []


class Tokens(_Body):
    """Token counts of all attempts. `decisions`: sampled where two or more tokens were allowed."""

    prompt: int = 0
    cached: int = 0
    forced: int = 0
    sampled: int = 0
    decisions: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(**{name: getattr(self, name) + getattr(other, name) for name in Tokens.model_fields})


class Quantization(_Body):
    """Weights rewritten for the machine that they run on: llama.cpp's name of the type, and the result's sha256."""

    type: str
    sha256: str


class Provenance(_Body):
    """Where the text comes from. Every note is synthetic, and says so.

    `model_sha256` is the model's as it was named; `quantization` says what was made of it, where something was.
    `grammar_enforced`: whether the model was held to the strategy's grammar while it wrote; null without a grammar. A
    remote server that can't do that leaves faithfulness to verification and retries alone.
    """

    model: str | None
    model_sha256: str | None
    quantization: Quantization | None = None
    grammar_enforced: bool | None = None
    prompt_version: str
    priors_version: str | None = None
    seed: int
    attempts: int
    source: Literal["llm", "template"]
    tokens: Tokens = Tokens()
    timings_ms: dict[str, float] = {}
    synthetic: Literal[True] = True


class Note(_Body):
    """A clinical note, the facts it states, the verdict on it, and where it comes from."""

    text: str
    strategy: Strategy
    facts: list[StatedFact]
    verification: Verification
    provenance: Provenance


class NoteJob(BaseModel):
    """The state of one request; `index` is its place in its batch."""

    id: str
    status: Status
    created_at: datetime
    finished_at: datetime | None = None
    notes: list[Note] = []
    error: Problem | None = None
    index: int | None = None


class Counts(BaseModel):
    """Jobs of a batch by status."""

    queued: int = 0
    running: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0


class Batch(BaseModel):
    """A batch's identity and how far it is."""

    id: str
    total: int
    counts: Counts

    @property
    def ended(self) -> int:
        """Jobs that will not change any more."""
        return self.counts.finished + self.counts.failed + self.counts.cancelled


class StrategyInfo(BaseModel):
    """One strategy on offer and the facts that its notes must state."""

    id: Strategy
    title: str
    uses_llm: bool
    prompt_version: str
    states: list[Topic]


class PriorsInfo(BaseModel):
    """The diagnoses that have clinical priors. `version` changes whenever any of them does."""

    version: str
    diagnoses: list[str]


class ModelInfo(BaseModel):
    """The language model that the workers use. `grammar`: whether its engine can hold a text to a grammar."""

    name: str
    sha256: str | None
    context_tokens: int
    engine: str
    quantization: Quantization | None = None
    grammar: bool = True
    slots: int | None = None
    cells: int | None = None
    shares_prefixes: bool | None = None


class Health(BaseModel):
    """What readiness found, check by check."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] = {}
