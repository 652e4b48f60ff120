"""The engine's protocol: OpenAI's `/v1/completions` over a Unix socket or HTTP, with the fields that Dermnote adds.

A request stands alone, so an engine is free to run many at a time.
"""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Segment(BaseModel):
    """A piece of an answer: `text` that is fixed, or, without it, up to `max_tokens` that the model writes.

    What the model writes ends at a `stop` text (left out), or follows a `grammar` (GBNF). `from_prompt`: the segment is
    written as if right behind the prompt, without a look at those before it, so that requests share more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str | None = Field(default=None, min_length=1)
    max_tokens: int = Field(default=64, ge=1, le=4096)
    stop: list[str] = Field(default=[], max_length=8)
    grammar: str | None = None
    from_prompt: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.text is not None and (self.stop or self.grammar is not None):
            raise ValueError("a segment with text is fixed: it takes neither stop nor grammar")
        return self


class CompletionRequest(BaseModel):
    """One completion. `deadline_s`: seconds from arrival after which the engine gives up.

    `segments` make the answer of fixed and written pieces: fixed text is decoded without being sampled. They take the
    place of `stop` and `max_tokens`; a `grammar` beside them is for an engine that takes no segments. `model`: what
    OpenAI's clients always name; Dermnote's engine has one model and runs that.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    prompt: str = Field(min_length=1)
    max_tokens: int = Field(default=160, ge=1, le=4096)
    temperature: float = Field(default=0.3, ge=0, le=2)
    top_p: float = Field(default=0.95, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    stop: list[str] = Field(default=[], max_length=8)
    grammar: str | None = None
    segments: list[Segment] | None = Field(default=None, min_length=1, max_length=64)
    deterministic: bool = False
    deadline_s: float = Field(default=120, gt=0, le=3600)


class CompletionChoice(BaseModel):
    """`finish_reason`: "stop" (ended by itself or by a stop text) or "length"."""

    model_config = ConfigDict(extra="ignore")

    index: int = 0
    text: str
    finish_reason: str | None = None


class PromptTokensDetails(BaseModel):
    model_config = ConfigDict(extra="ignore")

    cached_tokens: int = 0


class CompletionUsage(BaseModel):
    """Token counts; `forced_tokens` and `decisions` are ours and absent from other servers."""

    model_config = ConfigDict(extra="ignore")

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails | None = None
    forced_tokens: int = 0
    decisions: int | None = None


class CompletionResponse(BaseModel):
    """An OpenAI `text_completion`."""

    model_config = ConfigDict(extra="ignore")

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice] = Field(min_length=1)
    usage: CompletionUsage = CompletionUsage()
