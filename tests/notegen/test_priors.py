"""Priors: complete, of the vocabulary, never saying what a note may not say; users add their own."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import dermnote_notegen.priors
from dermnote_contracts.vocabulary import diagnoses, vocabularies
from dermnote_notegen.priors import PriorsInvalid, load_priors, read_prior
from dermnote_notegen.verify import Verifier

PRIORS = load_priors()
VERIFIER = Verifier(PRIORS)
SHIPPED = Path(dermnote_notegen.priors.__file__).parent / "data"
SEVEN_POINT = [
    "basal cell carcinoma", "blue nevus", "clark nevus", "combined nevus", "congenital nevus", "dermal nevus",
    "dermatofibroma", "lentigo", "melanoma", "melanoma (in situ)", "melanoma (less than 0.76 mm)",
    "melanoma (0.76 to 1.5 mm)", "melanoma (more than 1.5 mm)", "melanoma metastasis", "melanosis", "miscellaneous",
    "recurrent nevus", "reed or spitz nevus", "seborrheic keratosis", "vascular lesion",
]  # fmt: skip
PAPER = ["ack", "bcc", "bek", "df", "mel", "nev", "scc", "vasc"]


@pytest.mark.parametrize("label", [*SEVEN_POINT, *PAPER])
def test_every_class_of_the_seven_point_set_and_of_the_paper_has_one(label: str) -> None:
    assert vocabularies()["diagnosis"].normalise(label) in PRIORS


def test_there_are_at_least_thirty_described_diagnoses() -> None:
    assert sum(bool(prior.findings) for prior in PRIORS.values()) >= 30


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_is_named_for_its_diagnosis(path: Path) -> None:
    prior = read_prior(path.read_text("utf-8"), name=path.name)

    assert path.stem == re.sub(r"[^a-z0-9-]", "", prior.diagnosis.replace(" ", "-"))


@pytest.mark.parametrize("diagnosis", sorted(PRIORS))
def test_superclass_and_class_are_the_vocabularys(diagnosis: str) -> None:
    prior, term = PRIORS[diagnosis], diagnoses()[diagnosis]

    assert (prior.superclass, prior.klass) == (term.superclass, term.klass)


@pytest.mark.parametrize("diagnosis", sorted(PRIORS))
def test_every_wording_can_be_said_as_typical_and_says_nothing_else(diagnosis: str) -> None:
    name = diagnosis[0].upper() + diagnosis[1:]
    for finding in PRIORS[diagnosis].findings:
        for wording in finding.wordings:
            for text in (f"{name} typically shows {wording}.", f"For {diagnosis}, {wording} are typical."):
                verdict = VERIFIER.verify(text, facts={"diagnosis": diagnosis}).verification
                assert verdict.faithful, (text, verdict)


@pytest.mark.parametrize("diagnosis", sorted(PRIORS))
def test_what_it_must_never_be_called_is_refused_in_a_note(diagnosis: str) -> None:
    for name in PRIORS[diagnosis].never_called:
        text = f"A lesion was seen. The diagnosis is {diagnosis}. It is a {name}."
        assert not VERIFIER.verify(text, facts={"diagnosis": diagnosis}).verification.faithful, text


@pytest.mark.parametrize("diagnosis", sorted(PRIORS))
def test_every_source_can_be_looked_up(diagnosis: str) -> None:
    for source in PRIORS[diagnosis].sources:
        assert source.doi is None or re.fullmatch(r"10\.\d{4,9}/\S+", source.doi)


def own_file(folder: Path, **changes: Any) -> Path:
    """A priors file of a user's own: melanoma's, changed."""
    data = yaml.safe_load((SHIPPED / "melanoma.yaml").read_text("utf-8")) | changes
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_a_users_folder_replaces_and_adds(tmp_path: Path) -> None:
    own_file(tmp_path, definition="A definition of the user's own, long enough.")

    own = load_priors(tmp_path)

    assert own["melanoma"].definition.startswith("A definition of the user's own")
    assert own["nevus"] == PRIORS["nevus"]
    assert own.version != PRIORS.version


def test_a_users_findings_are_understood_by_the_verifier(tmp_path: Path) -> None:
    findings = yaml.safe_load((SHIPPED / "melanoma.yaml").read_text("utf-8"))["findings"]
    new = {"kind": "dermoscopic", "wordings": ["a zigzag glimmer", "zigzag glimmers"]}
    own_file(tmp_path, findings=[*findings, new])
    text = "Melanoma typically shows a zigzag glimmer."

    assert Verifier(load_priors(tmp_path)).verify(text, facts={"diagnosis": "melanoma"}).verification.faithful
    assert not VERIFIER.verify(text, facts={"diagnosis": "melanoma"}).verification.faithful


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"diagnosis": "melanomma"}, "diagnosis: Value error, 'melanomma' is no term"),
        ({"typical_sites": ["moon"]}, "typical_sites: Value error, no terms of the site vocabulary: moon"),
        ({"superclass": "evil"}, "superclass: Input should be"),
        ({"findings": []}, "findings: 0 are given, at least 5 are needed"),
        ({"codes": {"icd10": "X", "icd11": "2C30"}}, "codes.icd10: String should match pattern"),
        ({"sources": []}, "sources: Tuple should have at least 1 item"),
        ({"colour": "blue"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_a_bad_file_is_told_with_its_name_and_field(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = own_file(tmp_path, **changes)

    with pytest.raises(PriorsInvalid) as caught:
        load_priors(tmp_path)

    assert str(path) in str(caught.value)
    assert told in str(caught.value)


def test_a_folder_that_is_not_there_and_a_file_that_is_no_yaml_are_told(tmp_path: Path) -> None:
    with pytest.raises(PriorsInvalid, match="no such folder"):
        load_priors(tmp_path / "away")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(PriorsInvalid, match=r"bad\.yaml: not valid YAML"):
        load_priors(tmp_path)
