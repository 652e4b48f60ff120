"""Mutants: the verifier rejects a faithful note in which one fact was swapped, dropped or invented."""

import random
from collections.abc import Mapping
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dermnote_contracts.metadata import walk
from dermnote_notegen.verify import Verifier
from dermnote_notegen.verify.lexicon import phrase
from dermnote_notegen.writing.grammar import build_note_grammar, write_skeleton
from dermnote_notegen.writing.priors import load_priors
from tests.notegen.invented import VALUES, lesions

PRIORS = load_priors()
VERIFIER = Verifier(PRIORS)
DESCRIBED = [name for name, prior in PRIORS.items() if prior.findings]


# Words that only the priors of a few diagnoses have.
SPECIAL_WORDS = {
    "arborising", "arborizing", "leaf", "lacunae", "milia", "comedo", "strawberry", "glomerular", "cerebriform", "moth",
    "fingerprint", "crown", "wickham", "comma", "hairpin", "rosettes", "cobblestone", "starburst", "spoke", "rainbow",
    "papillomatous", "telangiectasias", "globular", "ovoid", "targetoid", "pseudonetwork", "veil", "ridge", "keratin",
}  # fmt: skip


def words_of(diagnosis: str) -> set[str]:
    """All words of a diagnosis's typical findings."""
    return {word for finding in PRIORS[diagnosis].findings for wording in finding.wordings for word in phrase(wording)}


SEEDS = st.integers(0, 2**31 - 1)
many = settings(max_examples=400, deadline=None)


def written(facts: Mapping[str, Any], seed: int) -> str:
    """A note of the facts, with typical findings where the diagnosis is known, or the plain skeleton."""
    if seed % 2:
        return write_skeleton(facts, seed=seed)
    prior = PRIORS.get(facts.get("diagnosis", ""))
    return build_note_grammar(facts, prior=prior, seed=seed).draw(random.Random(seed))


def replaced(facts: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The facts with one dotted field set; None takes it out."""
    name, _, inner = path.partition(".")
    new = {key: dict(held) if isinstance(held, dict) else held for key, held in facts.items()}
    place = new.setdefault(name, {}) if inner else new
    if value is None:
        place.pop(inner or name, None)
    else:
        place[inner or name] = value
    return {key: held for key, held in new.items() if held != {}}


def other_value(data: st.DataObject, path: str, value: Any) -> Any:
    """A value of the field that differs from the one given."""
    name, _, inner = path.partition(".")
    strategy = VALUES[name].flatmap(lambda group: st.just(group.get(inner))) if inner else VALUES[name]
    return data.draw(strategy.filter(lambda drawn: drawn is not None and drawn != value))


@many
@given(facts=lesions(), seed=SEEDS)
def test_the_unchanged_note_is_faithful(facts: dict[str, Any], seed: int) -> None:
    assert VERIFIER.verify(written(facts, seed), facts=facts).verification.faithful


@many
@given(facts=lesions(), seed=SEEDS, data=st.data())
def test_a_swapped_fact_is_caught(facts: dict[str, Any], seed: int, data: st.DataObject) -> None:
    facts = replaced(facts, "benign_malignant", None) if "benign_malignant" in facts else facts
    assume(facts)
    path, value = data.draw(st.sampled_from(list(walk(facts))))
    other = other_value(data, path, value)
    if isinstance(value, list):
        assume(set(other) != set(value))
    text = written(replaced(facts, path, other), seed)

    verdict = VERIFIER.verify(text, facts=facts).verification

    assert not verdict.faithful, text


@many
@given(facts=lesions(), seed=SEEDS, data=st.data())
def test_a_dropped_fact_is_caught(facts: dict[str, Any], seed: int, data: st.DataObject) -> None:
    paths = [path for path, _ in walk(facts)]
    path = data.draw(st.sampled_from(paths))
    left = replaced(facts, path, None)
    assume(left)
    # "Diagnosis: melanoma, a malignant lesion" still says what was dropped
    assume(not (path == "benign_malignant" and "diagnosis" in facts))
    text = written(left, seed)

    verdict = VERIFIER.verify(text, facts=facts).verification

    assert path in verdict.missing, text


@many
@given(facts=lesions(), seed=SEEDS, data=st.data())
def test_an_invented_fact_is_caught(facts: dict[str, Any], seed: int, data: st.DataObject) -> None:
    absent = [name for name in VALUES if name not in facts and name not in ("symptoms", "findings")]
    absent += [f"symptoms.{name}" for name in ("itch", "hurt", "grew", "changed", "bleed", "elevation")]
    absent += [f"findings.{name}" for name in ("asymmetry", "border", "colours", "structures")]
    absent = sorted(set(absent) - {path for path, _ in walk(facts)})
    assume(absent)
    path = data.draw(st.sampled_from(absent))
    text = written(replaced(facts, path, other_value(data, path, None)), seed)

    verdict = VERIFIER.verify(text, facts=facts).verification

    assert verdict.unsupported, text


@many
@given(facts=lesions(), name=st.sampled_from(DESCRIBED), other=st.sampled_from(DESCRIBED), seed=SEEDS)
def test_typical_findings_of_another_diagnosis_are_rejected(
    facts: dict[str, Any], name: str, other: str, seed: int
) -> None:
    facts = replaced(facts | {"diagnosis": name}, "benign_malignant", None)
    own = words_of(name)
    wordings = [finding.wordings[0] for finding in PRIORS[other].findings]
    foreign = [wording for wording in wordings if (set(phrase(wording)) & SPECIAL_WORDS) - own]
    assume(foreign)
    typical = f"{name[0].upper()}{name[1:]} typically shows {foreign[seed % len(foreign)]}."
    text = f"{write_skeleton(facts, seed=seed)} {typical}"

    assert not VERIFIER.verify(text, facts=facts).verification.faithful, text


@many
@given(facts=lesions(), name=st.sampled_from(DESCRIBED), seed=SEEDS)
def test_a_typical_finding_asserted_of_this_lesion_is_caught(facts: dict[str, Any], name: str, seed: int) -> None:
    facts = {key: value for key, value in facts.items() if key not in ("benign_malignant", "findings", "symptoms")}
    facts |= {"diagnosis": name}
    findings = PRIORS[name].findings
    text = f"{write_skeleton(facts, seed=seed)} The lesion shows {findings[seed % len(findings)].wordings[0]}."

    assert not VERIFIER.verify(text, facts=facts).verification.faithful, text
