"""The second checker on hand-written notes: faithful ones in many wordings, and each kind of unfaithful claim."""

from typing import Any

import pytest

from dermnote_contracts.metadata import LesionMetadata
from dermnote_notegen.writing.priors import load_priors
from lab.second_checker import check

Facts = dict[str, Any]

MELANOMA: Facts = {"age": 64, "sex": "female", "site": "back", "diagnosis": "melanoma"}
NEVUS: Facts = {"age": 30, "site": "forearm", "diagnosis": "nevus", "findings": {"border": "sharp", "colours": ["tan"]}}
SYMPTOMS: Facts = {"symptoms": {"itch": "no", "bleed": "yes", "hurt": "no"}}
BOTH_HISTORIES: Facts = {"personal_hx_mm": True, "family_hx_mm": False}
SEEN: Facts = {
    "findings": {"asymmetry": "asymmetric", "border": "mixed", "colours": ["red", "black"], "structures": ["dots"]}
}
FIRST = "A 64-year-old woman has a lesion on the back. Diagnosis: melanoma."

FAITHFUL: list[tuple[Facts, str]] = [
    (MELANOMA, FIRST),
    (MELANOMA, "Melanoma of the back in a female patient, 64 years old."),
    (MELANOMA, "Age: 64. Sex: female. Site: back. Diagnosis: malignant melanoma."),
    (MELANOMA, "This 64-year-old lady presents with a cutaneous lesion on her back, consistent with melanoma."),
    (MELANOMA, f"{FIRST} Melanoma typically shows a blue-white veil, irregular streaks and atypical vessels."),
    (MELANOMA, f"{FIRST} An indistinct border and a bluish\u2013white veil are commonly found in melanoma."),
    (
        MELANOMA,
        "The diagnosis in this 64-year-old woman is melanoma of the back, which often presents with a blue-white veil.",
    ),
    (MELANOMA, f"{FIRST} The lesion is on the trunk and malignant."),
    (NEVUS, "A nevus with a sharp border and light brown color is seen on the forearm of a patient aged 30 years."),
    (
        NEVUS,
        "A mole on the forearm of a 30-year-old person. It is well demarcated and tan. Site: upper extremity.",
    ),
    (
        NEVUS,
        "A 30-year-old adult has a nevus on the forearm. Its margins are sharply defined, its colour light brown.",
    ),
    (SYMPTOMS, "The lesion bleeds but does not itch or hurt."),
    (SYMPTOMS, "The patient denies itching and pain but reports bleeding."),
    (SYMPTOMS, "Itching and pain are denied, bleeding is reported."),
    (SYMPTOMS, "Bleeding: yes. Itching: no. Pain: no."),
    (SYMPTOMS, "There is bleeding, without pruritus and without tenderness."),
    (SYMPTOMS, "Neither itching nor pain is reported; the lesion has bled."),
    (SYMPTOMS, "Itching is absent. The patient reports bleeding and pain is denied."),
    ({"symptoms": {"itch": "no", "hurt": "no", "bleed": "no"}}, "No itching, pain, or bleeding is reported."),
    ({"symptoms": {"grew": "yes", "elevation": "no"}}, "The lesion is flat and has increased in size."),
    (BOTH_HISTORIES, "There is a personal history of melanoma, but no family history of melanoma."),
    (BOTH_HISTORIES, "The personal history is positive for melanoma. Family history of melanoma: no."),
    ({"personal_hx_mm": False, "family_hx_mm": False}, "The patient has no personal or family history of melanoma."),
    (SEEN, "The lesion is asymmetric, partly sharp and partly indistinct, red and black, and shows dots."),
    (SEEN, "It shows asymmetry, a mixed border, dots and the colours red and black."),
    ({"findings": {"colours": ["light brown", "dark brown"]}}, "The lesion shows light and dark brown colours."),
    ({"findings": {"asymmetry": "asymmetric"}}, "The lesion is not symmetrical."),
    (
        {"clin_size_long_diam_mm": 12, "fitzpatrick_skin_type": "II"},
        "It measures 1.2 cm across. Fitzpatrick skin type 2.",
    ),
    ({"clin_size_long_diam_mm": 2.5}, "The longest diameter of the lesion is 2.5 mm."),
    ({"image_type": "dermoscopic"}, "The lesion is documented with a dermoscopic image."),
    ({"image_type": "RCM: mosaic"}, "A mosaic of reflectance confocal microscopy was taken."),
    ({"image_type": "TBP tile: close-up"}, "It is shown in a close-up tile from total body photography."),
    ({"age": 7, "sex": "male"}, "The patient is a boy aged 7 years."),
    ({"age": 0.5}, "The patient is 0.5 years old."),
    ({"benign_malignant": "indeterminate/benign"}, "The lesion is classified as indeterminate/benign."),
    (
        {"diagnosis": "blue nevus", "site": "nose"},
        "A nevus of the face, classified as blue nevus, is located on the nose.",
    ),
]

UNFAITHFUL: list[tuple[Facts, str, str]] = [
    # missing
    (MELANOMA, "A 64-year-old woman has a lesion on the back.", "missing: diagnosis melanoma"),
    (MELANOMA, "A woman has melanoma of the back.", "missing: age 64"),
    (MELANOMA, "A 64-year-old woman has melanoma of the trunk.", "missing: site back"),
    (SYMPTOMS, "The lesion bleeds but does not itch.", "missing: symptoms.hurt no"),
    (SEEN, "It is asymmetric, with a mixed border, black colour and dots.", "missing: findings.colours red"),
    (MELANOMA, "A 64-year-old woman, back. Melanoma typically shows a blue-white veil.", "missing: diagnosis"),
    (
        NEVUS,
        "A nevus, light brown, on the forearm, aged 30. Nevus typically has a sharp border.",
        "missing: findings.border",
    ),
    ({"diagnosis": "blue nevus"}, "The diagnosis is nevus.", "missing: diagnosis blue nevus"),
    # contradicted
    (MELANOMA, FIRST.replace("64", "46"), "contradicted: age 46"),
    (MELANOMA, FIRST.replace("woman", "man"), "contradicted: sex male"),
    (MELANOMA, FIRST.replace("back", "chest"), "contradicted: site chest"),
    (MELANOMA, FIRST.replace("melanoma", "nodular melanoma"), "contradicted: diagnosis nodular melanoma"),
    (MELANOMA, f"{FIRST} The lesion is benign.", "unsupported: benign_malignant benign"),
    (MELANOMA, FIRST.replace("woman", "girl"), "life stage minor"),
    (SYMPTOMS, "The patient denies bleeding, itching and pain.", "contradicted: symptoms.bleed no"),
    (SYMPTOMS, "Itching and bleeding are reported, without pain.", "contradicted: symptoms.itch yes"),
    (SYMPTOMS, "The patient denies itching but reports pain and bleeding.", "contradicted: symptoms.hurt yes"),
    (BOTH_HISTORIES, "There is a personal and a family history of melanoma.", "contradicted: family_hx_mm True"),
    (SEEN, "The lesion is symmetrical.", "contradicted: findings.asymmetry symmetric"),
    (SEEN, "Asymmetry is absent.", "contradicted: findings.asymmetry symmetric"),
    (SEEN, "The lesion shows dots and globules.", "contradicted: findings.structures globules"),
    ({"clin_size_long_diam_mm": 12}, "It measures 12 cm.", "contradicted: clin_size_long_diam_mm 120"),
    ({"image_type": "dermoscopic"}, "A clinical image was taken.", "contradicted: image_type clinical"),
    # not given
    (MELANOMA, f"{FIRST} There is no bleeding.", "unsupported: symptoms.bleed no"),
    (MELANOMA, f"{FIRST} She denies itching.", "unsupported: symptoms.itch no"),
    (MELANOMA, f"{FIRST} It is raised.", "unsupported: symptoms.elevation yes"),
    (MELANOMA, f"{FIRST} There is a family history of melanoma.", "unsupported: family_hx_mm True"),
    (MELANOMA, f"{FIRST} She has a history of melanoma.", "unsupported: personal_hx_mm"),
    (MELANOMA, f"{FIRST} She has a history of basal cell carcinoma.", "history of a diagnosis basal cell carcinoma"),
    (MELANOMA, f"{FIRST} The lesion measures 6 mm.", "unsupported: clin_size_long_diam_mm 6"),
    (MELANOMA, f"{FIRST} It shows a blue-white veil.", "unexplained"),
    (MELANOMA, f"{FIRST} It shows white colour.", "unsupported: findings.colours white"),
    (MELANOMA, f"{FIRST} It is not a nevus.", "unsupported denial: diagnosis nevus"),
    (MELANOMA, f"{FIRST} There is no sign of malignancy.", "malignancy"),
    (SEEN, "The lesion shows red dots.", "unsupported combination: red dots"),
    (SEEN, "The lesion has a black border.", "unsupported combination: black border"),
    (SEEN, "No black colour is seen.", "unsupported denial: findings.colours black"),
    ({"site": "back"}, "A lesion on the left side of the back.", "unexplained laterality: left side"),
    # typical, but wrongly
    (MELANOMA, f"{FIRST} The lesion shows a typical blue-white veil.", "unexplained"),
    (MELANOMA, f"{FIRST} Melanoma typically shows milia-like cysts.", "typical finding not in the prior"),
    (MELANOMA, f"{FIRST} Melanoma typically itches.", "never worded as typical: symptoms.itch"),
    (MELANOMA, f"{FIRST} Melanoma is commonly found on the leg.", "never worded as typical: site leg"),
    (MELANOMA, f"{FIRST} Nevus typically shows a sharp border.", "contradicted: diagnosis nevus"),
    (MELANOMA, f"{FIRST} Melanoma typically shows no blue-white veil.", "unexplained"),
    (MELANOMA, f"{FIRST} Melanoma typically shows a blue-white veil and a bluish-white veil.", "repetition"),
    (MELANOMA, f"{FIRST} Melanoma is often related to sun exposure.", "exposure"),
    (MELANOMA, f"{FIRST} A blue-white veil is seen and typical of melanoma.", "unexplained"),
    (MELANOMA, f"{FIRST} A blue-white veil is present, as is typical of melanoma.", "unexplained"),
    (MELANOMA, f"{FIRST} Melanoma with a typical blue-white veil.", "asserted of the lesion"),
    (NEVUS, "The patient aged 30 had a nevus.", "history of a diagnosis nevus"),
    (SYMPTOMS, "The patient has marked itching.", "unexplained words: marked"),
    (SYMPTOMS, "The patient reports symptoms.", "unexplained words: symptoms"),
    ({"site": "forearm"}, "The lesion involves both forearms.", "both"),
    # never
    (MELANOMA, f"{FIRST} Excision is recommended.", "unexplained treatment"),
    (MELANOMA, f"{FIRST} She should avoid the sun.", "unexplained advice"),
    (MELANOMA, f"{FIRST} It appeared in March 2021.", "march 2021"),
    (MELANOMA, f"{FIRST} It has been present for 3 years.", "unexplained date: 3 years"),
    (MELANOMA, f"{FIRST} Mrs. Smith was seen.", "name: Smith"),
    (MELANOMA, "A sixty-four-year-old woman has melanoma of the back.", "missing: age 64"),
    (MELANOMA, "A woman over 64 years of age has melanoma of the back.", "unexplained words: over"),
    (MELANOMA, f"{FIRST} {FIRST}", "repetition"),
    (MELANOMA, f"{FIRST} As an AI language model, I wrote the note.", "unexplained"),
    (MELANOMA, f"{FIRST} **Facts**: age 64.", "unexplained"),
    (MELANOMA, FIRST.replace("Diagnosis: melanoma", "Possible melanoma"), "unexplained hedge: possible"),
    (SYMPTOMS, "The patient does not deny itching.", "double negation"),
    (SYMPTOMS, "The patient has no symptoms.", "denial without a recognised claim"),
]


def _problems(metadata: Facts, text: str) -> list[str]:
    facts = LesionMetadata.model_validate(metadata).given()
    return check(text, facts=facts, prior=load_priors().get(facts.get("diagnosis", "")))


@pytest.mark.parametrize(("metadata", "text"), FAITHFUL)
def test_a_faithful_note_has_no_problems(metadata: Facts, text: str) -> None:
    assert _problems(metadata, text) == []


@pytest.mark.parametrize(("metadata", "text", "problem"), UNFAITHFUL)
def test_an_unfaithful_note_has_the_problem_named(metadata: Facts, text: str, problem: str) -> None:
    problems = _problems(metadata, text)
    assert any(problem in each for each in problems), problems


def test_allowed_facts_may_be_stated_but_need_not_be() -> None:
    facts = {"age": 64}
    assert check("The patient is 64 years old.", facts=facts, allowed=MELANOMA) == []
    assert check("The patient is a 64-year-old woman.", facts=facts, allowed=MELANOMA) == []
    assert check("The patient is a 64-year-old woman.", facts=facts) == ["unsupported: sex female"]


def test_without_a_prior_no_finding_is_typical() -> None:
    text = f"{FIRST} Melanoma typically shows a blue-white veil."
    assert check(text, facts=MELANOMA, prior=load_priors()["melanoma"]) == []
    assert any("typical finding not in the prior" in problem for problem in check(text, facts=MELANOMA))


def test_a_blinded_note_may_not_name_the_diagnosis_or_its_nature() -> None:
    blinded = {"age": 64, "sex": "female", "site": "back"}
    problems = check(f"{FIRST} It is malignant.", facts=blinded)
    assert problems == ["unsupported: diagnosis melanoma", "unsupported: benign_malignant malignant"]


def test_every_fact_is_missing_from_an_empty_note() -> None:
    assert len(check("", facts=MELANOMA)) == len(MELANOMA)
