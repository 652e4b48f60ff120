"""Request and response bodies of the note service: NoteRequest, NoteJob, Batch."""

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
    """Options for writing the note. Without a seed, one is drawn and reported in the provenance.

    `deterministic`: the same request with the same seed gives the same note, whatever the load. Such requests run one
    at a time. If a remote server replaces Dermnote's engine, only the seed is sent to it.
    """

    seed: int | None = Field(default=None, ge=0, lt=2**31)
    temperature: float | None = Field(default=None, ge=0, le=2)
    max_words: int | None = Field(default=None, ge=10, le=250)
    n: int = Field(default=1, ge=1, le=8)
    on_unfaithful: OnUnfaithful = "retry"
    deterministic: bool = False


class NoteRequest(_Body):
    """The facts of one lesion and how to write about them."""

    metadata: LesionMetadata
    strategy: Strategy = "G"
    include: frozenset[Topic] = ALL_TOPICS
    options: NoteOptions = NoteOptions()

    @field_serializer("include")
    def _in_one_order(self, topics: frozenset[Topic]) -> list[Topic]:
        """Sort the topics: equal requests are then equal JSON in every process (set order depends on the hash seed)."""
        return sorted(topics)


class BatchRequest(_Body):
    """Up to 1000 note requests; the response keeps their order."""

    items: Annotated[list[NoteRequest], Field(min_length=1, max_length=MAX_BATCH)]


class StatedFact(_Body):
    """A fact stated in the note's text. `start`, `end`: half-open range of code points."""

    field: str
    value: Any
    start: int
    end: int


class Claim(_Body):
    """A claim that the note must not make, with its position in the text."""

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
    """Token counts of all attempts. `decisions`: tokens sampled where two or more were allowed."""

    prompt: int = 0
    cached: int = 0
    forced: int = 0
    sampled: int = 0
    decisions: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(**{name: getattr(self, name) + getattr(other, name) for name in Tokens.model_fields})


class Quantization(_Body):
    """Weights rewritten for the machine that runs them: llama.cpp's name of the type, and sha256 of the result."""

    type: str
    sha256: str


class Provenance(_Body):
    """Origin of the text. Every note is marked as synthetic.

    `model_sha256`: the configured model file; `quantization`: the weights rewritten from it, if any.
    `grammar_enforced`: whether the strategy's grammar constrained the model while it wrote; null without a grammar. If
    a remote server does not support grammars, only verification and retries ensure faithfulness.
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
    """A clinical note with the facts that it states, its verdict and its provenance."""

    text: str
    strategy: Strategy
    facts: list[StatedFact]
    verification: Verification
    provenance: Provenance


class NoteJob(BaseModel):
    """The state of one request; `index` is its position in its batch."""

    id: str
    status: Status
    created_at: datetime
    finished_at: datetime | None = None
    notes: list[Note] = []
    error: Problem | None = None
    index: int | None = None


class Counts(BaseModel):
    """Number of a batch's jobs by status."""

    queued: int = 0
    running: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0


class Batch(BaseModel):
    """Identity and progress of a batch."""

    id: str
    total: int
    counts: Counts

    @property
    def ended(self) -> int:
        """Number of jobs that have ended."""
        return self.counts.finished + self.counts.failed + self.counts.cancelled


class StrategyInfo(BaseModel):
    """A strategy and the topics that its notes must state."""

    id: Strategy
    title: str
    uses_llm: bool
    prompt_version: str
    states: list[Topic]


class PriorsInfo(BaseModel):
    """The diagnoses that have clinical priors. `version` changes with any prior."""

    version: str
    diagnoses: list[str]


class ModelInfo(BaseModel):
    """The language model of the workers. `grammar`: whether its engine supports grammars."""

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
    """The result of each readiness check."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str] = {}
