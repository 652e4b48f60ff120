"""The vocabulary files are consistent, and agree with isic-metadata where it has the field."""

import tomllib
from importlib.resources import files
from itertools import chain

import pytest
from isic_metadata.diagnosis_hierarchical import DiagnosisEnum
from isic_metadata.fields import AnatomSiteGeneralEnum, FitzpatrickSkinType, ImageTypeEnum
from isic_metadata.metadata import MetadataRow

from dermnote_contracts.metadata import Findings, LesionMetadata, Symptoms
from dermnote_contracts.vocabulary import (
    DETAILED,
    NOT_GIVEN,
    UnknownTerm,
    diagnoses,
    fold,
    is_not_given,
    sites,
    vocabularies,
    vocabulary,
)

FOLDER = files("dermnote_contracts") / "vocabularies"
FILES = sorted(entry.name.removesuffix(".toml") for entry in FOLDER.iterdir())
CLOSED = [name for name in vocabularies() if name not in ("diagnosis", "site")]


@pytest.mark.parametrize("name", vocabularies())
def test_every_spelling_maps_to_one_term(name: str) -> None:
    held = vocabularies()[name]
    assert set(held.spellings.values()) == set(held.terms)
    for spelling, term in held.spellings.items():
        assert held.normalise(spelling.upper()) == term


@pytest.mark.parametrize("name", vocabularies())
def test_no_spelling_also_means_missing(name: str) -> None:
    assert not NOT_GIVEN & set(vocabularies()[name].spellings)


@pytest.mark.parametrize("name", FILES)
def test_no_spelling_is_listed_twice_in_a_file(name: str) -> None:
    tables = tomllib.loads((FOLDER / f"{name}.toml").read_text("utf-8"))
    for term, entry in tables.items():
        lists = [entry.get(key, []) for key in ("synonyms", "labels", "adjective")] if name in DETAILED else [entry]
        folded = [fold(spelling) for spelling in (term, *chain.from_iterable(lists))]
        assert len(folded) == len(set(folded)), f"{name}: {term} lists a spelling twice"


def test_each_vocabulary_has_one_file() -> None:
    assert set(FILES) - set(DETAILED) == set(CLOSED)
    assert set(DETAILED) <= set(FILES)


def test_a_label_is_accepted_but_is_not_a_synonym() -> None:
    for diagnosis in diagnoses().values():
        assert not set(diagnosis.labels) & {diagnosis.name, *diagnosis.synonyms}
        for label in diagnosis.labels:
            assert vocabularies()["diagnosis"].normalise(label) == diagnosis.name


def test_a_spelling_shared_by_two_terms_is_an_error() -> None:
    with pytest.raises(ValueError, match="stands for both 'nevus' and 'melanoma'"):
        vocabulary("diagnosis", {"nevus": ["nv"], "melanoma": ["NV"]})


@pytest.mark.parametrize("name", diagnoses())
def test_every_diagnosis_has_a_known_superclass_which_its_class_shares(name: str) -> None:
    entry = diagnoses()[name]
    assert entry.superclass in ("benign", "indeterminate", "pre-cancerous", "malignant")
    assert entry.class_name in diagnoses()
    assert diagnoses()[entry.class_name].superclass == entry.superclass
    assert diagnoses()[entry.class_name].class_name == entry.class_name


def test_vocabularies_and_term_fields_correspond() -> None:
    fields = {*LesionMetadata.model_fields, *Findings.model_fields} - {"age", "clin_size_long_diam_mm"}
    fields -= {"symptoms", "findings", "personal_hx_mm", "family_hx_mm"}
    assert set(vocabularies()) == fields | {"symptom"}
    assert set(Symptoms.model_fields) == {"itch", "hurt", "grew", "changed", "bleed", "elevation"}


@pytest.mark.parametrize("name", CLOSED)
def test_an_error_lists_all_terms_of_a_small_vocabulary(name: str) -> None:
    with pytest.raises(UnknownTerm) as caught:
        vocabularies()[name].normalise("qqqq")
    assert caught.value.nearest == list(vocabularies()[name].terms)


def test_sexes_equal_those_of_isic() -> None:
    for sex in vocabularies()["sex"].terms:
        assert MetadataRow(sex=sex).sex == sex


@pytest.mark.parametrize(
    ("field", "theirs"), [("image_type", ImageTypeEnum), ("fitzpatrick_skin_type", FitzpatrickSkinType)]
)
def test_terms_equal_those_of_isic(field: str, theirs: type[ImageTypeEnum] | type[FitzpatrickSkinType]) -> None:
    assert set(vocabularies()[field].terms) == {member.value for member in theirs}


def test_general_sites_equal_those_of_isic() -> None:
    theirs = {member.value for member in AnatomSiteGeneralEnum}
    assert {site.general for site in sites().values()} - {""} == theirs
    for general in theirs:
        assert vocabularies()["site"].normalise(general) in sites()


def test_benign_and_malignant_are_roots_of_the_isic_diagnoses() -> None:
    roots = {member.value.split(":")[0].lower() for member in DiagnosisEnum}
    assert {"benign", "malignant", "indeterminate"} <= roots
    assert set(vocabularies()["benign_malignant"].terms) <= roots | {"indeterminate/benign", "indeterminate/malignant"}


@pytest.mark.parametrize("value", [0, False, "no", "0", 0.0])
def test_zero_counts_as_given(value: object) -> None:
    assert not is_not_given(value)
