"""Strategies: the facts each one puts into a note, the requests it rejects, and its prompt file (prompts/*.toml)."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict

from dermnote_contracts.notes import NoteRequest, Strategy, Topic
from dermnote_contracts.problems import NoFacts, StrategyNeedsDiagnosis

TOPIC_OF: dict[str, Topic] = {
    "diagnosis": "diagnosis",
    "benign_malignant": "diagnosis",
    "age": "demographics",
    "sex": "demographics",
    "fitzpatrick_skin_type": "demographics",
    "site": "site",
    "personal_hx_mm": "history",
    "family_hx_mm": "history",
    "symptoms": "symptoms",
    "findings": "findings",
    "clin_size_long_diam_mm": "findings",
    "image_type": "findings",
}
EVERYTHING = tuple(TOPIC_OF)
CARRIED: dict[Strategy, tuple[str, ...]] = {
    "M": ("diagnosis",),
    "P1": ("diagnosis",),
    "P2": ("age", "sex", "site", "diagnosis"),
    "P3": tuple(name for name in EVERYTHING if TOPIC_OF[name] != "diagnosis"),
    "G": EVERYTHING,
}
NEEDS_DIAGNOSIS: frozenset[Strategy] = frozenset(("M", "P1"))
# The prompt hides the diagnosis. If the model names one, it counts as unsupported, even if it is right.
HIDES_DIAGNOSIS: frozenset[Strategy] = frozenset(("P3",))


class Example(BaseModel):
    """An invented patient's facts, from which the note's sentences are generated, and the lesion's description."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    facts: Mapping[str, Any]
    description: str


class PromptFile(BaseModel):
    """One strategy's file. A strategy without an instruction uses no model; without wordings the model writes freely.

    `wordings`: rules of a phrase grammar; `words`: words for single facts; `most_alternatives`: how many alternatives
    of each rule a seed selects at most.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    instruction: str = ""
    examples: tuple[Example, ...] = ()
    stop: tuple[str, ...] = ()
    max_words: int = 0
    temperature: float = 0.0
    wordings: Mapping[str, Sequence[str]] = {}
    words: Mapping[str, Any] = {}
    most_alternatives: int = 0


@cache
def prompt_file(strategy: Strategy) -> PromptFile:
    """The data file of a strategy."""
    return PromptFile.model_validate(
        tomllib.loads((files(__package__) / "prompts" / f"{strategy}.toml").read_text("utf-8"))
    )


@dataclass(frozen=True)
class NoteFacts:
    """Facts that are given and included, by field. `stated`: the note must state them; `allowed`: it may state them."""

    stated: Mapping[str, Any]
    allowed: Mapping[str, Any]

    @property
    def diagnosis(self) -> str | None:
        """The diagnosis if the note may name it; None for a blinded note."""
        return self.allowed.get("diagnosis")


def note_facts(request: NoteRequest) -> NoteFacts:
    """The facts that the note of a request must and may state.

    Raises StrategyNeedsDiagnosis or NoFacts.
    """
    strategy = request.strategy
    included = {name: value for name, value in request.metadata.given().items() if TOPIC_OF[name] in request.include}
    if strategy in NEEDS_DIAGNOSIS and "diagnosis" not in included:
        raise StrategyNeedsDiagnosis(f"strategy {strategy} needs metadata.diagnosis, and 'diagnosis' in `include`")
    stated = {name: included[name] for name in CARRIED[strategy] if name in included}
    if not stated:
        raise NoFacts(f"strategy {strategy} needs at least one included fact of: {', '.join(CARRIED[strategy])}")
    hidden = strategy in HIDES_DIAGNOSIS
    allowed = {name: value for name, value in included.items() if not (hidden and TOPIC_OF[name] == "diagnosis")}
    return NoteFacts(stated, allowed)
