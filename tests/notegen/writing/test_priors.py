"""Priors: complete, within the vocabulary, free of forbidden claims; users add their own."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from isic_metadata.diagnosis_hierarchical import DiagnosisEnum

import dermnote_notegen.writing.priors
from dermnote_contracts.vocabulary import diagnoses, vocabularies
from dermnote_notegen.verify import Verifier
from dermnote_notegen.writing.priors import PriorsInvalid, load_priors, read_prior

PRIORS = load_priors()
VERIFIER = Verifier(PRIORS)
SHIPPED = Path(dermnote_notegen.writing.priors.__file__).parent / "data"
SEVEN_POINT = [
    "basal cell carcinoma", "blue nevus", "clark nevus", "combined nevus", "congenital nevus", "dermal nevus",
    "dermatofibroma", "lentigo", "melanoma", "melanoma (in situ)", "melanoma (less than 0.76 mm)",
    "melanoma (0.76 to 1.5 mm)", "melanoma (more than 1.5 mm)", "melanoma metastasis", "melanosis", "miscellaneous",
    "recurrent nevus", "reed or spitz nevus", "seborrheic keratosis", "vascular lesion",
]  # fmt: skip
# Diagnoses without an equivalent in ISIC's hierarchy: inflammatory ones, and terms that cover several of ISIC's.
NOT_IN_ISIC = [
    "acne vulgaris", "actinic keratosis or intraepithelial carcinoma", "becker nevus", "eczema", "folliculitis",
    "granuloma annulare", "lichen planus", "miscellaneous lesion", "neurofibromatosis", "prurigo nodularis",
    "psoriasis", "vitiligo",
]  # fmt: skip
PAPER = ["ack", "bcc", "bek", "df", "mel", "nev", "scc", "vasc"]


@pytest.mark.parametrize("label", [*SEVEN_POINT, *PAPER])
def test_every_class_of_the_seven_point_set_and_of_the_paper_has_a_prior(label: str) -> None:
    assert vocabularies()["diagnosis"].normalise(label) in PRIORS


def test_there_are_at_least_thirty_described_diagnoses() -> None:
    assert sum(bool(prior.findings) for prior in PRIORS.values()) >= 30


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_is_named_for_its_diagnosis(path: Path) -> None:
    prior = read_prior(path.read_text("utf-8"), name=path.name)

    assert path.stem == re.sub(r"[^a-z0-9-]", "", prior.diagnosis.replace(" ", "-"))


@pytest.mark.parametrize("diagnosis", sorted(PRIORS))
def test_superclass_and_class_match_the_vocabulary(diagnosis: str) -> None:
    prior, term = PRIORS[diagnosis], diagnoses()[diagnosis]

    assert (prior.superclass, prior.class_name) == (term.superclass, term.class_name)


@pytest.mark.parametrize("diagnosis", sorted(PRIORS))
def test_the_isic_path_exists_in_isics_hierarchy(diagnosis: str) -> None:
    places = {place.value for place in DiagnosisEnum}

    assert (PRIORS[diagnosis].isic == ()) == (diagnosis in NOT_IN_ISIC)
    assert diagnosis in NOT_IN_ISIC or ":".join(PRIORS[diagnosis].isic) in places


@pytest.mark.parametrize("diagnosis", sorted(set(PRIORS) - set(NOT_IN_ISIC)))
def test_isic_agrees_on_benign_and_malignant(diagnosis: str) -> None:
    opposite = {"benign": "Malignant", "malignant": "Benign"}

    assert PRIORS[diagnosis].isic[0] != opposite.get(PRIORS[diagnosis].superclass)


@pytest.mark.parametrize("diagnosis", sorted(PRIORS))
def test_every_wording_is_faithful_as_typical_and_claims_nothing_else(diagnosis: str) -> None:
    name = diagnosis[0].upper() + diagnosis[1:]
    for finding in PRIORS[diagnosis].findings:
        for wording in finding.wordings:
            for text in (f"{name} typically shows {wording}.", f"For {diagnosis}, {wording} are typical."):
                verdict = VERIFIER.verify(text, facts={"diagnosis": diagnosis}).verification
                assert verdict.faithful, (text, verdict)


@pytest.mark.parametrize("diagnosis", sorted(PRIORS))
def test_a_never_called_name_is_rejected_in_a_note(diagnosis: str) -> None:
    for name in PRIORS[diagnosis].never_called:
        text = f"A lesion was seen. The diagnosis is {diagnosis}. It is a {name}."
        assert not VERIFIER.verify(text, facts={"diagnosis": diagnosis}).verification.faithful, text


@pytest.mark.parametrize("diagnosis", sorted(PRIORS))
def test_every_source_has_a_valid_identifier(diagnosis: str) -> None:
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


def test_two_files_of_one_diagnosis_are_an_error_and_yml_is_read_too(tmp_path: Path) -> None:
    first = own_file(tmp_path)
    first.rename(tmp_path / "first.yml")
    assert load_priors(tmp_path).version != PRIORS.version
    (second := tmp_path / "second").mkdir()
    own_file(second).rename(second / "another.yml")
    own_file(second)

    with pytest.raises(PriorsInvalid, match=r"mine\.yaml: .*another\.yml is for melanoma too"):
        load_priors(second)


def test_the_version_depends_on_the_texts_and_not_on_their_folder(tmp_path: Path) -> None:
    for name in ("here", "there", "other", "empty"):
        (tmp_path / name).mkdir()
    own_file(tmp_path / "here", definition="A definition of the user's own.")
    own_file(tmp_path / "there", definition="A definition of the user's own.")
    own_file(tmp_path / "other", definition="Another definition of the user's.")

    here, there, other = (load_priors(tmp_path / name).version for name in ("here", "there", "other"))

    assert here == there
    assert len({here, other, PRIORS.version}) == 3
    assert load_priors(tmp_path / "empty").version == PRIORS.version


def test_a_users_findings_are_understood_by_the_verifier(tmp_path: Path) -> None:
    findings = yaml.safe_load((SHIPPED / "melanoma.yaml").read_text("utf-8"))["findings"]
    new = {"kind": "dermoscopic", "wordings": ["a zigzag glimmer", "zigzag glimmers"]}
    own_file(tmp_path, findings=[*findings, new])
    text = "Melanoma typically shows a zigzag glimmer."

    assert Verifier(load_priors(tmp_path)).verify(text, facts={"diagnosis": "melanoma"}).verification.faithful
    assert not VERIFIER.verify(text, facts={"diagnosis": "melanoma"}).verification.faithful


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"diagnosis": "melanomma"}, "diagnosis: Value error, 'melanomma' is not in the diagnosis vocabulary"),
        ({"typical_sites": ["moon"]}, "typical_sites: Value error, not in the site vocabulary: moon"),
        ({"superclass": "evil"}, "superclass: Input should be"),
        ({"findings": []}, "findings: has 0, needs at least 5"),
        ({"codes": {"icd10": "X", "icd11": "2C30"}}, "codes.icd10: String should match pattern"),
        ({"sources": []}, "sources: Tuple should have at least 1 item"),
        ({"colour": "blue"}, "colour: Extra inputs are not permitted"),
    ],
)
def test_an_invalid_file_is_reported_with_its_name_and_field(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = own_file(tmp_path, **changes)

    with pytest.raises(PriorsInvalid) as caught:
        load_priors(tmp_path)

    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_folder_and_a_file_that_is_not_yaml_are_reported(tmp_path: Path) -> None:
    with pytest.raises(PriorsInvalid, match="folder of priors not found"):
        load_priors(tmp_path / "away")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(PriorsInvalid, match=r"bad\.yaml: not valid YAML"):
        load_priors(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "not valid YAML"),
        (b"a: b\n c: d: e", "not valid YAML"),
        (b"seen: 2020-13-45", "not valid YAML: month must be in 1..12"),
        (b"definition: na\xefve", "not UTF-8 text"),
        (b"- melanoma", "Input should be a valid dictionary"),
        (b"", "Input should be a valid dictionary"),
        (b"diagnosis: [melanoma]", "diagnosis: Input should be a valid string"),
    ],
)
def test_every_invalid_file_is_reported_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)

    with pytest.raises(PriorsInvalid) as caught:
        load_priors(tmp_path)

    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)
