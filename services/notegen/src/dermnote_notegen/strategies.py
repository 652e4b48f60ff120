"""What each strategy carries into a note, and which requests it refuses. Pure: values in, values out."""

from typing import Any

from dermnote_contracts.metadata import walk
from dermnote_contracts.notes import NoteRequest, Strategy, Topic
from dermnote_contracts.problems import NoFacts, StrategyNeedsDiagnosis, StrategyNotOffered

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
}
CARRIED: dict[Strategy, tuple[str, ...]] = {
    "M": ("diagnosis",),
    "P2": ("age", "sex", "site", "diagnosis"),
}
NEEDS_DIAGNOSIS: frozenset[Strategy] = frozenset(("M", "P1"))


def facts_to_state(request: NoteRequest) -> dict[str, Any]:
    """The facts that the note must state: given, included, and carried by the strategy. Keys are metadata fields.

    Raises StrategyNotOffered, StrategyNeedsDiagnosis or NoFacts.
    """
    if request.strategy not in CARRIED:
        offered = ", ".join(CARRIED)
        raise StrategyNotOffered(f"strategy {request.strategy} is not offered yet; offered: {offered}")
    included = {
        name: value
        for name, value in request.metadata.given().items()
        if TOPIC_OF.get(name) is not None and TOPIC_OF[name] in request.include
    }
    if request.strategy in NEEDS_DIAGNOSIS and "diagnosis" not in included:
        raise StrategyNeedsDiagnosis(f"strategy {request.strategy} needs metadata.diagnosis, given and included")
    facts = {name: included[name] for name in CARRIED[request.strategy] if name in included}
    if not facts:
        raise NoFacts(f"strategy {request.strategy} carries {', '.join(CARRIED[request.strategy])}; none was given")
    return facts


def is_blinded(facts: dict[str, Any]) -> bool:
    """True where the note must not reveal or hint at a diagnosis."""
    return "diagnosis" not in facts


def field_names(facts: dict[str, Any]) -> list[str]:
    """The dotted names of the facts, as they appear in a note's verification."""
    return [name for name, _ in walk(facts)]
