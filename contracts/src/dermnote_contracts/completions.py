"""The engine's protocol: OpenAI's `/v1/completions` over a Unix socket or HTTP, with the fields that Dermnote adds.

A request stands alone, so an engine is free to run many at a time.
"""

import json
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, computed_field, model_validator
from pydantic_core import PydanticCustomError

# Whatever has a length is read as UTF-8, so that half a surrogate pair ("\ud800" in JSON) is refused here.
Name = Annotated[str, StringConstraints(max_length=1000)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=200_000)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
SEEDS = 2**32
# What OpenAI's clients may send of a feature that the engine has not, as long as it asks for nothing; null always does.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "stream": (False,),
    "stream_options": (None,),
    "logprobs": (None,),
    "echo": (False,),
    "suffix": (None, ""),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": (None, {}),
}
# Says who asks, which changes no answer.
UNUSED = {"user"}


class Segment(BaseModel):
    """A piece of an answer: `text` that is fixed, or, without it, up to `max_tokens` that the model writes.

    What the model writes ends at a `stop` text (left out), and follows a `grammar` (GBNF) where there is one; one that
    its limit cuts is the last. `from_prompt`: the segment is written as if right behind the prompt, without a look at
    those before it, so that requests share more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Text | None = None
    max_tokens: int = Field(default=64, ge=1, le=4096)
    stop: list[StopText] = Field(default=[], max_length=8)
    grammar: Text | None = None
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

    Defaults are OpenAI's, and null stands for them. Without a `seed`, or with -1, one is drawn; `deterministic` without
    one takes 0. OpenAI's other fields are taken where they ask for nothing (`NEUTRAL`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Name | None = None
    prompt: Text
    max_tokens: int = Field(default=16, ge=1, le=4096)
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, ge=0, le=1)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0, le=1)
    seed: int = Field(default_factory=lambda: secrets.randbelow(SEEDS), ge=0, lt=SEEDS)
    stop: list[StopText] = Field(default=[], max_length=8)
    grammar: Text | None = None
    segments: list[Segment] | None = Field(default=None, min_length=1, max_length=64)
    deterministic: bool = False
    deadline_s: float = Field(default=120, gt=0, le=3600)

    @model_validator(mode="before")
    @classmethod
    def _from_openai(cls, body: Any) -> Any:
        """The same request in our own fields."""
        if not isinstance(body, Mapping):
            return body
        known = {*cls.model_fields, *NEUTRAL, *UNUSED}
        asked = {name: value for name, value in body.items() if value is not None or name not in known}
        for name, neutral in NEUTRAL.items():
            if asked.pop(name, neutral[0]) not in neutral:
                raise _not_served(name, f"only {json.dumps(neutral[0])}")
        return _plain({name: value for name, value in asked.items() if name not in UNUSED})


def _plain(asked: dict[str, Any]) -> dict[str, Any]:
    """One form of what may have several: a text or a list of one, a drawn seed."""
    if isinstance(asked.get("stop"), str):
        asked["stop"] = [asked["stop"]]
    if isinstance(prompts := asked.get("prompt"), list):
        if len(prompts) != 1 or not isinstance(prompts[0], str):
            raise _not_served("prompt", "only one text")
        asked["prompt"] = prompts[0]
    if asked.get("deterministic"):
        asked.setdefault("seed", 0)
    if asked.get("seed") == -1:
        del asked["seed"]
    return asked


def _not_served(name: str, served: str) -> PydanticCustomError:
    return PydanticCustomError(
        "not_served", "{name}: {served} is served", {"name": name, "served": served, "fields": [name]}
    )


class CompletionChoice(BaseModel):
    """`finish_reason`: "stop" (ended by itself or by a stop text) or "length". Ours has no `logprobs`."""

    model_config = ConfigDict(extra="ignore")

    index: int = 0
    text: str
    finish_reason: str | None = None
    logprobs: Any = None


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

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total_tokens(self) -> int:
        """Of the prompt and the answer."""
        return self.prompt_tokens + self.completion_tokens


class CompletionResponse(BaseModel):
    """An OpenAI `text_completion`."""

    model_config = ConfigDict(extra="ignore")

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice] = Field(min_length=1)
    usage: CompletionUsage = CompletionUsage()
