"""Notes without a model: the facts as sentences, in a wording chosen by the seed.

Strategy M's template, and what every other strategy falls back to. Pure; every fact given appears, and nothing else.
"""

import random
import re
from typing import Any

from dermnote_contracts.vocabulary import diagnoses

PERSON = {"male": ("man", "male patient"), "female": ("woman", "female patient")}
CHILD = {"male": "boy", "female": "girl"}
ADULT_FROM_YEARS = 18


def article(phrase: str) -> str:
    """`phrase` with "a" or "an" before it ("an 8-year-old girl", "a nevus")."""
    number = re.match(r"\d+", phrase)
    vowel = number[0][0] == "8" or number[0] in ("11", "18") if number else phrase[:1].lower() in "aeiou"
    return f"{'an' if vowel else 'a'} {phrase}"


def person(facts: dict[str, Any], draw: random.Random | None = None) -> str:
    """Who the patient is, from age and sex alone: "64-year-old woman", "patient". `draw` varies the noun."""
    age, sex = facts.get("age"), facts.get("sex")
    nouns: tuple[str, ...] = PERSON[sex] if sex else ("patient",)
    if sex and age is not None and age < ADULT_FROM_YEARS:
        nouns = (CHILD[sex], nouns[1])
    noun = draw.choice(nouns) if draw else nouns[0]
    return noun if age is None else f"{age}-year-old {noun}"


def presenting_sentence(facts: dict[str, Any]) -> str:
    """The plainest wording: "A 64-year-old woman presents with a melanoma on the arm."."""
    text = f"{article(person(facts))} presents with {_lesion(facts)}{_place(facts)}."
    return text[0].upper() + text[1:]


def _lesion(facts: dict[str, Any]) -> str:
    return article(facts["diagnosis"]) if "diagnosis" in facts else "a skin lesion"


def _place(facts: dict[str, Any]) -> str:
    return f" on the {facts['site']}" if "site" in facts else ""


def template_m(facts: dict[str, Any]) -> str:
    """Strategy M (arXiv 2511.21827): superclass, class and subclass of the diagnosis in one fixed template."""
    diagnosis = diagnoses()[facts["diagnosis"]]
    lesion = f"This image shows {article(diagnosis.superclass)} skin lesion of the class {diagnosis.klass}"
    return f"{lesion}." if diagnosis.name == diagnosis.klass else f"{lesion}, subclass {diagnosis.name}."


def write_skeleton(facts: dict[str, Any], *, seed: int) -> str:
    """A short note that states age, sex, site and diagnosis where they were given, and nothing else."""
    draw = random.Random(seed)
    who = article(person(facts, draw))
    site = _place(facts)
    named = "diagnosis" in facts
    wordings = [
        f"{who} presents with {_lesion(facts)}{site}.",
        f"{who} was examined for a skin lesion{site}." + (f" The diagnosis is {facts['diagnosis']}." if named else ""),
        f"Skin lesion{site} in {who}." + (f" Diagnosis: {facts['diagnosis']}." if named else ""),
        f"{who} with a skin lesion{site}" + (f", diagnosed as {facts['diagnosis']}." if named else "."),
    ]
    text = draw.choice(wordings)
    return text[0].upper() + text[1:]
