"""Facts whose presence reveals the class are found and dropped; facts missing at random stay."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats.contingency import association

from dermnote_contracts.metadata import LesionMetadata
from dermnote_train.data.presence import presences, without
from dermnote_train.data.records import Record

CLASSES = ("NEV", "MEL", "BCC")


def records(facts: list[tuple[str, Mapping[str, object]]]) -> tuple[Record, ...]:
    return tuple(
        Record(f"i{number}", Path("x.jpg"), f"g{number}", label, LesionMetadata.model_validate(metadata))
        for number, (label, metadata) in enumerate(facts)
    )


def filled(shares: Mapping[str, float], *, each: int = 100) -> tuple[Record, ...]:
    """`each` records per class, of which the given share has a sex; all have an age."""
    return records(
        [
            (label, {"age": 40, "sex": "female"} if place < share * each else {"age": 40})
            for label, share in shares.items()
            for place in range(each)
        ]
    )


def test_a_field_that_only_cancers_have_reveals_the_class() -> None:
    (sex,) = presences(filled({"NEV": 0.4, "MEL": 1.0, "BCC": 1.0}))
    assert (sex.path, sex.reveals_class) == ("sex", True)
    assert sex.by_class == {"BCC": 1.0, "MEL": 1.0, "NEV": 0.4}
    assert sex.filled == pytest.approx(0.8)
    # By hand: expected 80/20 per class; (40-80)^2/80 + (60-20)^2/20 = 100 for NEV, 2 * (5 + 20) for the others.
    assert sex.cramers_v == pytest.approx(np.sqrt(150 / 300))


@pytest.mark.parametrize(
    ("shares", "each"),
    [
        ({"NEV": 0.8, "MEL": 0.8, "BCC": 0.8}, 100),
        ({"NEV": 0.95, "MEL": 1.0, "BCC": 1.0}, 400),  # significant, but a small effect
        ({"NEV": 0.25, "MEL": 1.0, "BCC": 1.0}, 4),  # too few records
        ({"NEV": 0.5}, 100),  # only one class
    ],
)
def test_a_field_missing_at_random_does_not_reveal_the_class(shares: Mapping[str, float], each: int) -> None:
    assert [one.reveals_class for one in presences(filled(shares, each=each))] == [False]


def test_fields_that_all_or_no_records_have_are_not_listed() -> None:
    assert presences(filled({"NEV": 1.0, "MEL": 1.0})) == ()
    assert presences(filled({"NEV": 0.0, "MEL": 0.0})) == ()
    assert presences(()) == ()


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CLASSES), st.booleans()), min_size=2, max_size=60))
def test_cramers_v_equals_scipys(drawn: list[tuple[str, bool]]) -> None:
    result = presences(records([(label, {"sex": "male"} if has else {}) for label, has in drawn]))
    labels = sorted({label for label, _ in drawn})
    if len({has for _, has in drawn}) < 2 or len(labels) < 2:
        assert all(one.cramers_v == 0 for one in result)
        return
    counts = np.array([[drawn.count((label, has)) for has in (True, False)] for label in labels])
    assert result[0].cramers_v == pytest.approx(association(counts, method="cramer"))


def test_nested_facts_are_dropped_too_and_the_rest_stays() -> None:
    (record,) = records(
        [("NEV", {"age": 40, "sex": "male", "symptoms": {"itch": "yes", "grew": "no"}, "diagnosis": "nevus"})]
    )
    (left,) = without([record], ["sex", "symptoms.grew"])
    assert left.metadata.given() == {"age": 40, "diagnosis": "nevus", "symptoms": {"itch": "yes"}}
    (bare,) = without([record], ["symptoms.grew", "symptoms.itch"])
    assert bare.metadata.given() == {"age": 40, "sex": "male", "diagnosis": "nevus"}
