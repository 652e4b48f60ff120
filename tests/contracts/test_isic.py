"""isic-metadata accepts the ISIC terms of our vocabularies. Its own normalised output is not used."""

import pytest
from isic_metadata.anatom_site_hierarchical import AnatomSiteEnum
from isic_metadata.diagnosis_hierarchical import DiagnosisEnum
from isic_metadata.fields import AnatomSiteGeneralEnum, AnatomSiteSpecialEnum, LegacyDxEnum
from isic_metadata.metadata import MetadataRow
from pydantic import ValidationError

from dermnote_contracts.metadata import LesionMetadata
from dermnote_contracts.vocabulary import Diagnosis, Site, diagnoses, sites, vocabularies

MAPPED = [diagnosis for diagnosis in diagnoses().values() if diagnosis.isic]
MAPPED_SITES = [site for site in sites().values() if site.isic]
# ISIC classifies lesions that may become malignant as Indeterminate, but porokeratosis as Benign.
ROOTS = {
    "benign": {"Benign"},
    "malignant": {"Malignant"},
    "indeterminate": {"Indeterminate"},
    "pre-cancerous": {"Indeterminate", "Benign"},
}
# Not the diagnosis of one lesion, or a family of benign and malignant tumours.
NO_DIAGNOSIS = {"other", "adnexal tumor"}


@pytest.mark.parametrize("diagnosis", MAPPED, ids=lambda diagnosis: diagnosis.name)
def test_isic_accepts_the_isic_path_of_each_diagnosis(diagnosis: Diagnosis) -> None:
    path = DiagnosisEnum(diagnosis.isic)
    assert MetadataRow(diagnosis=diagnosis.isic).diagnosis == path
    assert path.value.split(":")[0] in ROOTS[diagnosis.superclass]


@pytest.mark.parametrize("diagnosis", MAPPED, ids=lambda diagnosis: diagnosis.name)
def test_the_last_part_of_an_isic_path_is_accepted_by_isic_and_us(diagnosis: Diagnosis) -> None:
    last = diagnosis.isic.rpartition(":")[2]
    assert MetadataRow(diagnosis=last).diagnosis == diagnosis.isic
    assert LesionMetadata(diagnosis=last).diagnosis == diagnosis.name


@pytest.mark.parametrize("mapped", [MAPPED, MAPPED_SITES], ids=["diagnoses", "sites"])
def test_each_isic_term_has_at_most_one_term(mapped: list[Diagnosis] | list[Site]) -> None:
    assert len({term.isic for term in mapped}) == len(mapped)


@pytest.mark.parametrize("path", AnatomSiteEnum, ids=lambda path: path.value)
def test_every_site_of_the_isic_hierarchy_has_its_own_term(path: AnatomSiteEnum) -> None:
    site = LesionMetadata(site=path.value.rpartition(":")[2]).site
    assert site is not None
    assert sites()[site].isic == path.value


@pytest.mark.parametrize("site", MAPPED_SITES, ids=lambda site: site.name)
def test_isic_accepts_the_isic_path_of_each_site(site: Site) -> None:
    assert MetadataRow(anatom_site=site.isic).anatom_site == site.isic
    if site.general:
        assert MetadataRow(anatom_site_general=site.general).anatom_site_general == site.general


@pytest.mark.parametrize("site", MAPPED_SITES, ids=lambda site: site.name)
def test_a_site_has_the_general_site_of_its_parent(site: Site) -> None:
    """Except palms, soles and mucosa, which have a general site of their own."""
    parents = [other for other in MAPPED_SITES if other.isic == site.isic.rpartition(":")[0] and other.general]
    for parent in parents:
        assert site.general in (parent.general, "palms/soles", "oral/genital")


@pytest.mark.parametrize("label", [*AnatomSiteGeneralEnum, *AnatomSiteSpecialEnum], ids=lambda label: label.value)
def test_general_and_special_isic_sites_are_known(label: AnatomSiteGeneralEnum | AnatomSiteSpecialEnum) -> None:
    assert LesionMetadata(site=label.value).site in sites()


@pytest.mark.parametrize("label", sorted({label.value for label in LegacyDxEnum} - NO_DIAGNOSIS))
def test_legacy_isic_diagnoses_are_known(label: str) -> None:
    assert LesionMetadata(diagnosis=label).diagnosis in diagnoses()


@pytest.mark.parametrize("field", ["sex", "image_type", "fitzpatrick_skin_type"])
def test_isic_accepts_our_spelling_of_its_terms(field: str) -> None:
    for term in vocabularies()[field].terms:
        assert getattr(MetadataRow(**{field: term}), field) == term


@pytest.mark.parametrize("age", [86, 90, 120])
def test_an_age_that_isic_caps_is_kept(age: int) -> None:
    assert MetadataRow(age=age).age == 85
    assert LesionMetadata(age=age).given() == {"age": age}


@pytest.mark.parametrize(
    ("field", "theirs", "plain"), [("diagnosis", "diagnosis", "nv"), ("site", "anatom_site", "back")]
)
def test_a_label_that_isic_rejects_may_still_be_a_term(field: str, theirs: str, plain: str) -> None:
    with pytest.raises(ValidationError):
        MetadataRow(**{theirs: plain})
    assert LesionMetadata.model_validate({field: plain}).given()
