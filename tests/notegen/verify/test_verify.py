"""The verifier: faithful texts in many wordings pass, each kind of planted error is found at its position."""

from typing import Any

import pytest

from dermnote_notegen.verify import Verdict, Verifier
from dermnote_notegen.writing.priors import load_priors

VERIFIER = Verifier(load_priors())

FACTS: dict[str, Any] = {"age": 61, "sex": "female", "site": "back", "diagnosis": "melanoma"}
BLINDED: dict[str, Any] = {"age": 61, "sex": "female", "site": "back"}

FAITHFUL = [
    "A 61-year-old woman presents with a melanoma on the back.",
    "A 61 year old female with melanoma of the back.",
    "Melanoma on the back. The patient is a woman, aged 61.",
    "She is 61 years old; the melanoma sits on her back.",
    "61yo female, melanoma, back.",
    "Female, age: 61. Site: back. Diagnosis: malignant melanoma.",
    "A 61-year-old lady has a malignant lesion on the back, a melanoma.",
    "A 61-year-old woman has a melanoma on the back. The lesion was examined and recorded.",
    "A 61-year-old woman has a melanoma on the back. Melanoma typically shows an irregular pigment network.",
    "This is a melanoma of the back in a 61-year-old woman, which typically shows a blue-white veil.",
    "A 61-year-old woman has a melanoma on the back, which is not benign.",
    "A 61-year-old woman came back with a melanoma on the back.",
    "On the other hand, the melanoma on the back of this 61-year-old woman is malignant.",
]

# text, field of the claim, its words, the list that holds it
PLANTED = [
    ("A 62-year-old woman with a melanoma on the back.", "age", "62-year-old", "contradicted"),
    ("A 61-year-old woman, aged 16, with a melanoma on the back.", "age", "aged 16", "contradicted"),
    ("A sixty-one-year-old woman with a melanoma on the back.", "age", "sixty-one-year-old", "contradicted"),
    ("A 61-year-old woman in her fifties with a melanoma on the back.", "age", "in her fifties", "contradicted"),
    ("A woman in the early 40s, 61 years old, back, melanoma.", "age", "in the early 40s", "contradicted"),
    ("An elderly 61-year-old woman with a melanoma on the back.", "age", "elderly", "contradicted"),
    ("A 61-year-old woman with a melanoma on the back. He is well.", "sex", "He", "contradicted"),
    ("A 61-year-old woman with a melanoma on his back.", "sex", "his", "contradicted"),
    ("A 61-year-old woman with a melanoma on the face and back.", "site", "face", "contradicted"),
    ("A 61-year-old woman with a facial melanoma, not on the back.", "site", "facial", "contradicted"),
    (
        "A 61-year-old woman with a melanoma on the back and the upper back of the thigh.",
        "site",
        "thigh",
        "contradicted",
    ),
    ("A 61-year-old woman with a melanoma on the back, or a nevus.", "diagnosis", "nevus", "contradicted"),
    (
        "A 61-year-old woman with a nodular melanoma on the back: melanoma.",
        "diagnosis",
        "nodular melanoma",
        "contradicted",
    ),
    ("A 61-year-old woman, back: melanoma. No melanoma was seen.", "diagnosis", "melanoma", "contradicted"),
    ("A 61-year-old woman, back: melanoma. It is not a melanoma.", "diagnosis", "melanoma", "contradicted"),
    (
        "A 61-year-old woman with a melanoma on the back and seborrheic keratoses.",
        "diagnosis",
        "seborrheic keratoses",
        "contradicted",
    ),
    ("A 61-year-old woman with a melanoma on the back among blue naevi.", "diagnosis", "blue naevi", "contradicted"),
    ("A 61-year-old woman with a melanoma on the back and lentigines.", "diagnosis", "lentigines", "contradicted"),
    ("A 61-year-old woman with a benign melanoma on the back.", "malignancy", "benign", "contradicted"),
    (
        "A 61-year-old woman with a melanoma on the back. It is not malignant.",
        "malignancy",
        "malignant",
        "contradicted",
    ),
    (
        "A 61-year-old woman with a melanoma on the back. Melanoma is non-cancerous.",
        "malignancy",
        "non-cancerous",
        "contradicted",
    ),
    (
        "A 61-year-old woman with a melanoma on the back. It is dark. It is dark.",
        "repetition",
        " It is dark.",
        "unsupported",
    ),
    ("A 61-year-old woman with a melanoma on the back, dark dark dark.", "repetition", "dark dark dark", "unsupported"),
    ("A 61-year-old woman with a melanoma on the back. Facts: age 61.", "prompt_leakage", "Facts:", "unsupported"),
    ("Note: a 61-year-old woman with a melanoma on the back.", "prompt_leakage", "Note:", "unsupported"),
    (
        "A 61-year-old woman with a melanoma on the back. Note: A lesion was seen.",
        "prompt_leakage",
        ". Note:",
        "unsupported",
    ),
    ("A 61-year-old woman with a melanoma on the back.<|im_end|>", "prompt_leakage", "<|", "unsupported"),
]

# text, facts that it leaves out
INCOMPLETE = [
    ("A woman with a melanoma on the back.", ["age"]),
    ("A 61-year-old patient with a melanoma on the back.", ["sex"]),
    ("A 61-year-old woman with a melanoma.", ["site"]),
    ("A 61-year-old woman with a lesion on the back.", ["diagnosis"]),
    ("A woman with a melanoma on the posterior torso.", ["age", "site"]),
    ("", ["age", "sex", "site", "diagnosis"]),
]


def verify(text: str, *, facts: dict[str, Any], allowed: dict[str, Any] | None = None) -> Verdict:
    return VERIFIER.verify(text, facts=facts, allowed=allowed)


@pytest.mark.parametrize("text", FAITHFUL)
def test_a_text_that_states_only_the_facts_is_faithful(text: str) -> None:
    verdict = verify(text, facts=FACTS).verification
    assert verdict.model_dump(exclude={"faithful", "coverage"}) == {
        "unsupported": [],
        "contradicted": [],
        "missing": [],
    }
    assert verdict.faithful
    assert verdict.coverage == 1


@pytest.mark.parametrize(("text", "field", "words", "where"), PLANTED)
def test_a_planted_error_is_found_at_its_position(text: str, field: str, words: str, where: str) -> None:
    verdict = verify(text, facts=FACTS).verification
    assert not verdict.faithful
    claims = [(claim.field, claim.text) for claim in getattr(verdict, where)]
    assert (field, words) in claims
    for claim in [*verdict.contradicted, *verdict.unsupported]:
        assert text[claim.start : claim.end] == claim.text


@pytest.mark.parametrize(("text", "missing"), INCOMPLETE)
def test_an_omitted_fact_is_missing_and_lowers_coverage(text: str, missing: list[str]) -> None:
    verdict = verify(text, facts=FACTS).verification
    assert verdict.missing == missing
    assert verdict.coverage == 1 - len(missing) / 4
    assert not verdict.faithful


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("A 61-year-old woman with a melanoma on the back.", "diagnosis"),
        ("A 61-year-old woman with a skin tag on the back.", "diagnosis"),
        ("A 61-year-old woman with a seborrhoeic keratosis on the back.", "diagnosis"),
        ("A 61-year-old woman, back. Nothing like Bowen's disease.", "diagnosis"),
        ("A 61-year-old woman with a malignant lesion on the back.", "malignancy"),
        ("A 61-year-old woman with a skin cancer on the back.", "malignancy"),
        ("A 61-year-old woman with a pre-cancerous lesion on the back.", "malignancy"),
    ],
)
def test_a_blinded_note_may_not_hint_at_a_diagnosis(text: str, field: str) -> None:
    verdict = verify(text, facts=BLINDED).verification
    assert not verdict.faithful
    assert field in {claim.field for claim in verdict.unsupported}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("A man with a melanoma.", "sex"),
        ("A 61-year-old patient with a melanoma.", "age"),
        ("A melanoma on the cheek.", "site"),
    ],
)
def test_an_invented_fact_is_unsupported(text: str, field: str) -> None:
    verdict = verify(text, facts={"diagnosis": "melanoma"}).verification
    assert [claim.field for claim in verdict.unsupported] == [field]


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"site": "chest", "age": 5}, "A 5-year-old patient: the chest, that is the anterior torso."),
        ({"site": "forearm"}, "A lesion of the upper extremity, on the forearm."),
        ({"diagnosis": "solar lentigo"}, "A benign keratosis, a solar lentigo."),
        ({"diagnosis": "nodular melanoma"}, "A melanoma; more precisely a nodular melanoma."),
        ({"diagnosis": "actinic keratosis"}, "An actinic keratosis, which is precancerous."),
    ],
)
def test_a_true_broader_term_is_not_an_error(facts: dict[str, Any], text: str) -> None:
    assert verify(text, facts=facts).verification.faithful


@pytest.mark.parametrize(
    ("facts", "text", "field"),
    [
        ({"site": "upper extremity"}, "A lesion on the upper extremity, on the forearm.", "site"),
        ({"site": "head and neck"}, "A lesion on the head and neck: the nose.", "site"),
        ({"diagnosis": "benign keratosis"}, "A benign keratosis, a seborrheic keratosis.", "diagnosis"),
        (
            {"diagnosis": "actinic keratosis or intraepithelial carcinoma"},
            "Actinic keratosis or intraepithelial carcinoma; an actinic keratosis.",
            "diagnosis",
        ),
    ],
)
def test_a_more_specific_term_is_unsupported(facts: dict[str, Any], text: str, field: str) -> None:
    assert [claim.field for claim in verify(text, facts=facts).verification.contradicted] == [field]


@pytest.mark.parametrize(
    "text",
    [
        "The patient came back with a lesion on the scalp.",
        "On the other hand, the scalp is involved.",
        "On the one hand the scalp was examined.",
    ],
)
def test_a_word_that_only_resembles_a_site_is_not_a_site(text: str) -> None:
    verdict = verify(text, facts={"site": "scalp"}).verification
    assert verdict.contradicted == []
    assert verdict.faithful


@pytest.mark.parametrize(
    "text", ["Seen before lunch on the scalp.", "An early earring; scalp.", "The shelf; scalp.", "Xyzzy scalp."]
)
def test_an_unknown_word_is_unsupported(text: str) -> None:
    verdict = verify(text, facts={"site": "scalp"}).verification
    assert {claim.field for claim in verdict.unsupported} == {"unrecognised"}
    assert verdict.contradicted == []


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (0, "A 0-year-old patient."),
        (0.5, "A 0.5-year-old patient."),
        (120, "Aged 120."),
        (7, "The age is 7."),
        (33, "A patient 33 years of age."),
        (33, "A 33 y/o patient."),
        (33, "A 33 y.o. patient."),
    ],
)
def test_ages_are_recognised_in_every_usual_form(age: float, text: str) -> None:
    assert verify(text, facts={"age": age}).verification.faithful


@pytest.mark.parametrize("text", ["A 6-year-old.", "A 161-year-old.", "A 61.5-year-old.", "A 1.61-year-old."])
def test_an_age_is_compared_as_a_whole_number(text: str) -> None:
    verdict = verify(text, facts={"age": 61}).verification
    assert [claim.field for claim in verdict.contradicted] == ["age"]


def test_spans_count_code_points_and_cover_the_stated_fact() -> None:
    text = "😀 É 61-year-old woman presents with a Malignant Melanoma on the back."
    verdict = verify(text, facts=FACTS)
    cut = {fact.field: text[fact.start : fact.end] for fact in verdict.facts}
    assert cut == {"age": "61-year-old", "sex": "woman", "diagnosis": "Malignant Melanoma", "site": "back"}
    assert [fact.start for fact in verdict.facts] == sorted(fact.start for fact in verdict.facts)
    assert {fact.field: fact.value for fact in verdict.facts} == FACTS


def test_a_fact_stated_twice_is_listed_twice_and_counted_once() -> None:
    verdict = verify("A woman. She has a lesion.", facts={"sex": "female"})
    assert [fact.field for fact in verdict.facts] == ["sex", "sex"]
    assert verdict.verification.coverage == 1


def test_the_same_text_always_gets_the_same_verdict() -> None:
    text = PLANTED[0][0]
    assert verify(text, facts=FACTS) == verify(text, facts=FACTS)


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"symptoms": {"itch": "no"}}, "The patient does not deny itching."),
        ({"symptoms": {"itch": "no"}}, "There is no lack of itching."),
        ({"symptoms": {"itch": "no"}}, "Itching is not absent."),
        ({"symptoms": {"itch": "no"}}, "Not only itching."),
        ({"symptoms": {"itch": "no"}}, "No symptoms other than itching."),
        ({"symptoms": {"hurt": "no"}}, "It is not painless."),
        ({"symptoms": {"elevation": "no"}}, "It is not flat."),
        ({"symptoms": {"itch": "yes"}}, "Itching - none."),
        ({"symptoms": {"itch": "yes"}}, "Itching: not present."),
        ({"symptoms": {"itch": "yes"}}, "Itching was never reported."),
        ({"symptoms": {"itch": "yes"}}, "Itching hasn't occurred."),
        ({"symptoms": {"itch": "yes"}}, "The lesion is itch-free."),
        ({"symptoms": {"itch": "yes"}}, "Does it itch?"),
        ({"symptoms": {"itch": "yes"}}, "It may itch."),
        ({"symptoms": {"itch": "yes"}}, "Another lesion itches."),
        ({"symptoms": {"changed": "no"}}, "No change in size."),
        ({"symptoms": {"grew": "yes"}}, "A growth on the skin."),
        ({"family_hx_mm": True, "personal_hx_mm": True}, "A personal but no family history of melanoma."),
    ],
)
def test_a_denial_that_is_reversed_or_comes_late_is_recognised(facts: dict[str, Any], text: str) -> None:
    assert not verify(text, facts=facts).verification.faithful


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"sex": "female", "family_hx_mm": False}, "There is no family history of melanoma in this woman."),
        ({"family_hx_mm": False, "personal_hx_mm": True}, "A personal but no family history of melanoma."),
        (
            {"symptoms": {"hurt": "no", "bleed": "no", "itch": "yes"}},
            "A painless, non-bleeding lesion which itches.",
        ),
        (
            {"symptoms": {"hurt": "no", "bleed": "no", "itch": "yes"}},
            "Pain is absent, itching is present, bleeding is absent.",
        ),
    ],
)
def test_a_denial_has_the_right_scope(facts: dict[str, Any], text: str) -> None:
    assert verify(text, facts=facts).verification.faithful


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("Another patient has a melanoma.", "others"),
        ("A second lesion was found.", "others"),
        ("There are several melanomas.", "others"),
        ("It is near the back.", "beside"),
        ("Melanoma?", "sign"),
        ("[NAME] was seen.", "sign"),
        ("It would be melanoma.", "hedging"),
        ("The diagnosis is not confirmed.", "hedging"),
        ("She will be seen again.", "advice"),
        ("It was taken off.", "treatment"),
        ("She has no complaints.", "severity"),
        ("She is very old.", "age"),
        ("The lesion is 61 years old.", "age"),
        ("She is more than 61 years old.", "age"),
        ("Papules are seen.", "findings"),
    ],
)
def test_known_words_that_together_claim_something_not_given_are_unsupported(text: str, field: str) -> None:
    verdict = verify(f"{FAITHFUL[0]} {text}", facts=FACTS).verification
    assert field in {claim.field for claim in [*verdict.unsupported, *verdict.contradicted]}


@pytest.mark.parametrize(
    "text",
    [
        "Nevi usually present as brown macules or slightly raised papules.",
        "A regular pigment network is typically seen in nevi.",
        "A regular pigment network is a common finding that is seen in nevi.",
        "Most nevi typically show symmetry of shape.",
    ],
)
def test_a_typical_finding_may_be_stated_in_the_plural(text: str) -> None:
    assert verify(f"A nevus. {text}", facts={"diagnosis": "nevus"}).verification.faithful


@pytest.mark.parametrize("size", ["more than 12 mm", "up to 12 mm", "under 12 mm", ">12 mm", "almost 12 mm"])
def test_a_bound_is_not_the_size(size: str) -> None:
    facts = {"clin_size_long_diam_mm": 12}
    assert verify("The lesion measures 12 mm.", facts=facts).verification.faithful
    assert not verify(f"The lesion measures {size}.", facts=facts).verification.faithful


@pytest.mark.parametrize(
    "text",
    [
        "This melanoma typically shows an irregular pigment network.",
        "There is the typical irregular pigment network of melanoma.",
        "A blue-white veil, typical of melanoma.",
        "A blue-white veil typical of melanoma is visible.",
        "Dermoscopy reveals a blue-white veil typical of melanoma.",
        "Its blue-white veil is typical.",
        "Melanoma typically shows a blue-white veil, which is seen here.",
        "Melanoma typically shows a blue-white veil; atypical vessels are seen.",
        "Melanoma typically lacks a blue-white veil.",
        "Melanoma does not typically show a blue-white veil.",
        "Melanoma typically occurs on the back.",
        "The appearance is typical of melanoma.",
        "All typical features of melanoma are present.",
    ],
)
def test_a_typical_finding_may_not_be_asserted_of_the_lesion_or_denied(text: str) -> None:
    assert not verify(f"{FAITHFUL[0]} {text}", facts=FACTS).verification.faithful


@pytest.mark.parametrize("text", ["A " * 20_000, "no " * 20_000, "61 " * 20_000, "twenty-" * 10_000, "." * 50_000])
def test_a_degenerate_text_is_unfaithful(text: str) -> None:
    assert not verify(text, facts=FACTS).verification.faithful
