"""What we map to ISIC is what isic-metadata accepts. It is only asked; its output is never taken."""

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
# ISIC says Indeterminate of what may become malignant; of porokeratosis it says Benign.
ROOTS = {
    "benign": {"Benign"},
    "malignant": {"Malignant"},
    "indeterminate": {"Indeterminate"},
    "pre-cancerous": {"Indeterminate", "Benign"},
}
# No diagnosis of one lesion, or a family of tumours of any kind: a note can't say them.
NO_DIAGNOSIS = {"other", "adnexal tumor"}


@pytest.mark.parametrize("diagnosis", MAPPED, ids=lambda diagnosis: diagnosis.name)
def test_isic_accepts_the_diagnosis_that_ours_is_mapped_to(diagnosis: Diagnosis) -> None:
    path = DiagnosisEnum(diagnosis.isic)
    assert MetadataRow(diagnosis=diagnosis.isic).diagnosis == path
    assert path.value.split(":")[0] in ROOTS[diagnosis.superclass]


@pytest.mark.parametrize("diagnosis", MAPPED, ids=lambda diagnosis: diagnosis.name)
def test_the_last_part_of_isics_path_is_our_term_and_isics(diagnosis: Diagnosis) -> None:
    last = diagnosis.isic.rpartition(":")[2]
    assert MetadataRow(diagnosis=last).diagnosis == diagnosis.isic
    assert LesionMetadata(diagnosis=last).diagnosis == diagnosis.name


@pytest.mark.parametrize("mapped", [MAPPED, MAPPED_SITES], ids=["diagnoses", "sites"])
def test_no_two_terms_are_mapped_to_one_of_isics(mapped: list[Diagnosis] | list[Site]) -> None:
    assert len({term.isic for term in mapped}) == len(mapped)


@pytest.mark.parametrize("path", AnatomSiteEnum, ids=lambda path: path.value)
def test_every_site_of_isics_hierarchy_is_a_term_of_its_own(path: AnatomSiteEnum) -> None:
    site = LesionMetadata(site=path.value.rpartition(":")[2]).site
    assert site is not None
    assert sites()[site].isic == path.value


@pytest.mark.parametrize("site", MAPPED_SITES, ids=lambda site: site.name)
def test_isic_accepts_the_site_that_ours_is_mapped_to(site: Site) -> None:
    assert MetadataRow(anatom_site=site.isic).anatom_site == site.isic
    if site.general:
        assert MetadataRow(anatom_site_general=site.general).anatom_site_general == site.general


@pytest.mark.parametrize("site", MAPPED_SITES, ids=lambda site: site.name)
def test_a_part_lies_where_its_whole_lies(site: Site) -> None:
    """Palms, soles and mucosa have a general site of their own; all else has that of what holds it."""
    wholes = [other for other in MAPPED_SITES if other.isic == site.isic.rpartition(":")[0] and other.general]
    for whole in wholes:
        assert site.general in (whole.general, "palms/soles", "oral/genital")


@pytest.mark.parametrize("label", [*AnatomSiteGeneralEnum, *AnatomSiteSpecialEnum], ids=lambda label: label.value)
def test_isics_general_and_special_sites_are_known(label: AnatomSiteGeneralEnum | AnatomSiteSpecialEnum) -> None:
    assert LesionMetadata(site=label.value).site in sites()


@pytest.mark.parametrize("label", sorted({label.value for label in LegacyDxEnum} - NO_DIAGNOSIS))
def test_isics_former_diagnoses_are_known(label: str) -> None:
    assert LesionMetadata(diagnosis=label).diagnosis in diagnoses()


@pytest.mark.parametrize("field", ["sex", "image_type", "fitzpatrick_skin_type"])
def test_isic_accepts_every_term_of_its_fields_as_we_write_it(field: str) -> None:
    for term in vocabularies()[field].terms:
        assert getattr(MetadataRow(**{field: term}), field) == term


@pytest.mark.parametrize("age", [86, 90, 120])
def test_isics_output_is_not_taken(age: int) -> None:
    assert MetadataRow(age=age).age == 85
    assert LesionMetadata(age=age).given() == {"age": age}


@pytest.mark.parametrize(
    ("field", "theirs", "plain"), [("diagnosis", "diagnosis", "nv"), ("site", "anatom_site", "back")]
)
def test_what_isic_refuses_may_still_be_a_term(field: str, theirs: str, plain: str) -> None:
    with pytest.raises(ValidationError):
        MetadataRow(**{theirs: plain})
    assert LesionMetadata.model_validate({field: plain}).given()
