"""Faithful notes in many wordings: what people write beside full sentences, and the verifier must understand."""

from typing import Any

import pytest

from dermnote_notegen.priors import load_priors
from dermnote_notegen.verify import Verifier

VERIFIER = Verifier(load_priors())
F = {"age": 61, "sex": "female", "site": "back", "diagnosis": "melanoma"}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("A 61-year-old woman is here with a lesion on her back that turned out to be melanoma.", F),
    ("61-year-old female. Back. Melanoma, malignant.", F),
    ("Age 61, female, lesion over the back; melanoma.", F),
    ("Patient: woman, 61 years old. Location: back. Diagnosis: melanoma.", F),
    ("Sex: female. Age: 61 years. Anatomical site: back. Diagnosis: malignant melanoma.", F),
    ("We examined a woman (61 years) who has a melanoma on the back.", F),
    ("The back of this 61-year-old woman shows a melanoma.", F),
    ("Clinical note: female patient aged 61; melanoma of the back.", F),
    ("She is 61. The lesion is on the back. It is a melanoma.", F),
    ("On the back of a woman, 61 years of age, there is a melanoma.", F),
    (
        "Melanoma is usually asymmetric with an irregular border. The lesion on the back of this 61-year-old woman is a melanoma.",
        F,
    ),
    ("A melanoma commonly has an atypical network and irregular streaks. Here: a woman of 61, back.", F),
    ("The lesion neither itches nor bleeds.", {"symptoms": {"itch": "no", "bleed": "no"}}),
    ("There has been no bleeding. Itching is present.", {"symptoms": {"itch": "yes", "bleed": "no"}}),
    ("It itches but does not bleed, and it has grown.", {"symptoms": {"itch": "yes", "bleed": "no", "grew": "yes"}}),
    ("Itch: yes. Bleeding: no. Pain: no.", {"symptoms": {"itch": "yes", "bleed": "no", "hurt": "no"}}),
    ("Symptoms: itch (yes), bleeding (no).", {"symptoms": {"itch": "yes", "bleed": "no"}}),
    (
        "Positive for itching and growth; negative for bleeding, pain and change.",
        {"symptoms": {"itch": "yes", "grew": "yes", "bleed": "no", "hurt": "no", "changed": "no"}},
    ),
    (
        "The patient complains of itching and pain. No bleeding, growth or change has been noted.",
        {"symptoms": {"itch": "yes", "hurt": "yes", "bleed": "no", "grew": "no", "changed": "no"}},
    ),
    (
        "The lesion has not changed, is not raised and does not hurt.",
        {"symptoms": {"changed": "no", "elevation": "no", "hurt": "no"}},
    ),
    (
        "The lesion is raised, painful and pruritic; it has enlarged but has not bled.",
        {"symptoms": {"elevation": "yes", "hurt": "yes", "itch": "yes", "grew": "yes", "bleed": "no"}},
    ),
    ("Bleeding is absent. Itching, on the other hand, is reported.", {"symptoms": {"itch": "yes", "bleed": "no"}}),
    (
        "She denies any itching, bleeding, or pain.",
        {"sex": "female", "symptoms": {"itch": "no", "bleed": "no", "hurt": "no"}},
    ),
    (
        "No itching, no bleeding, no pain; growth is present.",
        {"symptoms": {"itch": "no", "bleed": "no", "hurt": "no", "grew": "yes"}},
    ),
    ("The lesion is free of pain and itching.", {"symptoms": {"hurt": "no", "itch": "no"}}),
    ("Neither pain nor itching nor bleeding is reported.", {"symptoms": {"hurt": "no", "itch": "no", "bleed": "no"}}),
    ("It has increased in size and has begun to bleed.", {"symptoms": {"grew": "yes", "bleed": "yes"}}),
    ("The lesion has been growing and it looks different now.", {"symptoms": {"grew": "yes", "changed": "yes"}}),
    ("It is tender, though it does not itch.", {"symptoms": {"hurt": "yes", "itch": "no"}}),
    ("Its maximum diameter is 12 mm.", {"clin_size_long_diam_mm": 12}),
    ("The lesion is 1.2 cm wide.", {"clin_size_long_diam_mm": 12}),
    ("A 12-mm lesion.", {"clin_size_long_diam_mm": 12}),
    ("Size: 12 mm.", {"clin_size_long_diam_mm": 12}),
    ("Clinical size (long diameter): 12 millimetres.", {"clin_size_long_diam_mm": 12}),
    ("Fitzpatrick phototype III.", {"fitzpatrick_skin_type": "III"}),
    ("Skin type: Fitzpatrick III.", {"fitzpatrick_skin_type": "III"}),
    ("The skin is of Fitzpatrick type III.", {"fitzpatrick_skin_type": "III"}),
    ("He has had a melanoma before.", {"sex": "male", "personal_hx_mm": True}),
    (
        "Family history of melanoma: yes. Personal history of melanoma: no.",
        {"family_hx_mm": True, "personal_hx_mm": False},
    ),
    (
        "The patient has a positive family history of melanoma and no personal history of melanoma.",
        {"family_hx_mm": True, "personal_hx_mm": False},
    ),
    ("Personal and family history are negative for melanoma.", {"family_hx_mm": False, "personal_hx_mm": False}),
    ("No history of melanoma, personal or familial.", {"family_hx_mm": False, "personal_hx_mm": False}),
    ("Melanoma has occurred in the family.", {"family_hx_mm": True}),
    ("The image is a dermoscopic one.", {"image_type": "dermoscopic"}),
    ("Dermoscopic image of a nevus.", {"image_type": "dermoscopic", "diagnosis": "nevus"}),
    (
        "On dermoscopy a pigment network and dots are seen.",
        {"image_type": "dermoscopic", "findings": {"structures": ["pigment network", "dots"]}},
    ),
    (
        "It is asymmetric, its border is ill-defined and its colours are black, dark brown and blue-gray.",
        {
            "findings": {
                "asymmetry": "asymmetric",
                "border": "indistinct",
                "colours": ["black", "dark brown", "blue-gray"],
            }
        },
    ),
    (
        "Asymmetry: asymmetric. Border: mixed. Colours: red, white. Structures: globules.",
        {
            "findings": {
                "asymmetry": "asymmetric",
                "border": "mixed",
                "colours": ["red", "white"],
                "structures": ["globules"],
            }
        },
    ),
    (
        "A symmetrical lesion, sharply demarcated, light brown in colour, with a pigment network.",
        {
            "findings": {
                "asymmetry": "symmetric",
                "border": "sharp",
                "colours": ["light brown"],
                "structures": ["pigment network"],
            }
        },
    ),
    (
        "The margins are blurred and the lesion lacks symmetry.",
        {"findings": {"asymmetry": "asymmetric", "border": "indistinct"}},
    ),
    (
        "The lesion is tan and dark brown and has well-circumscribed edges.",
        {"findings": {"border": "sharp", "colours": ["light brown", "dark brown"]}},
    ),
    ("Parts of the border are sharp, others are indistinct.", {"findings": {"border": "mixed"}}),
    ("The border is sharp in some places and indistinct in others.", {"findings": {"border": "mixed"}}),
    (
        "This is a benign lesion, namely a seborrheic keratosis. Such lesions usually have milia-like cysts.",
        {"diagnosis": "seborrheic keratosis"},
    ),
    ("Seborrheic keratosis; its hallmark is a stuck-on appearance.", {"diagnosis": "seborrheic keratosis"}),
    (
        "Dermatofibroma. Its typical dermoscopic finding is a central white scar-like patch.",
        {"diagnosis": "dermatofibroma"},
    ),
    ("In basal cell carcinoma, arborizing vessels are a common finding.", {"diagnosis": "basal cell carcinoma"}),
    ("Basal cell carcinomas often show a pearly border.", {"diagnosis": "basal cell carcinoma"}),
    (
        "The diagnosis given is basal cell carcinoma, which belongs to the malignant lesions.",
        {"diagnosis": "basal cell carcinoma"},
    ),
    ("Squamous cell carcinoma in situ (Bowen's disease).", {"diagnosis": "squamous cell carcinoma in situ"}),
    ("A boy aged 9 with a wart on the hand.", {"age": 9, "sex": "male", "site": "hand", "diagnosis": "verruca"}),
    (
        "This 9-year-old boy has a viral wart on his hand.",
        {"age": 9, "sex": "male", "site": "hand", "diagnosis": "verruca"},
    ),
    (
        "A lesion on the lower limb was seen in a man; he is 70 years old.",
        {"age": 70, "sex": "male", "site": "lower extremity"},
    ),
    ("Lower extremity lesion, 70-year-old male.", {"age": 70, "sex": "male", "site": "lower extremity"}),
    ("The gentleman is aged 70 years.", {"age": 70, "sex": "male"}),
]


@pytest.mark.parametrize(("text", "facts"), CASES, ids=[text[:50] for text, _ in CASES])
def test_a_natural_wording_is_understood(text: str, facts: dict[str, Any]) -> None:
    verdict = VERIFIER.verify(text, facts=facts).verification

    assert verdict.faithful, verdict


@pytest.mark.parametrize(("text", "facts"), CASES, ids=[text[:50] for text, _ in CASES])
def test_the_same_wording_is_held_against_a_note_of_other_facts(text: str, facts: dict[str, Any]) -> None:
    assert not VERIFIER.verify(text, facts={"site": "scalp"}).verification.faithful
