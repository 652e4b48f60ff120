"""Strategies: the facts each one puts into a note, and the requests it rejects. Pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
# The model chooses a diagnosis, which counts as unsupported even if it is right.
HIDES_DIAGNOSIS: frozenset[Strategy] = frozenset(("P3",))


@dataclass(frozen=True)
class NoteFacts:
    """Given and included facts, field -> value. `stated`: the note must state them; `allowed`: it may state them."""

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
        raise StrategyNeedsDiagnosis(f"strategy {strategy} needs metadata.diagnosis, given and included")
    stated = {name: included[name] for name in CARRIED[strategy] if name in included}
    if not stated:
        raise NoFacts(f"strategy {strategy} carries {', '.join(CARRIED[strategy])}; none was given and included")
    hidden = strategy in HIDES_DIAGNOSIS
    allowed = {name: value for name, value in included.items() if not (hidden and TOPIC_OF[name] == "diagnosis")}
    return NoteFacts(stated, allowed)
