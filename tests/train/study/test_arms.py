"""The training texts of each arm (own notes, other notes, class name, table), and the facts that notes may state."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermnote_contracts.metadata import Findings, LesionMetadata, Symptoms
from dermnote_contracts.notes import ALL_TOPICS
from dermnote_train.data.records import LesionDataset, Record
from dermnote_train.errors import UserError
from dermnote_train.notes.blinding import BLINDED
from dermnote_train.study.arms import ARMS, NAMING_SETS, NOTE_SETS, note_owners, training_texts
from dermnote_train.study.facts import FactScope, FactTable, common_facts, has_facts, keep_facts, list_facts

LABELS = st.lists(st.sampled_from(["NEV", "MEL", "BCC"]), min_size=2, max_size=30)


def records(labels: list[str], **facts: object) -> tuple[Record, ...]:
    return tuple(
        Record(f"img-{row}", Path(f"{row}.jpg"), f"g{row}", label, LesionMetadata(**facts))  # type: ignore[arg-type]
        for row, label in enumerate(labels)
    )


def sets(known: tuple[Record, ...]) -> dict[str, dict[str, str]]:
    return {name: {record.image_id: f"{name} {record.image_id}" for record in known} for name in NOTE_SETS}


def owners(arm: str, known: tuple[Record, ...], *, seed: int = 0) -> list[str]:
    """For each image, the owner of its training note."""
    (texts,) = training_texts(ARMS[arm], known, sets(known), seed=seed)
    return [text.rpartition(" ")[2] for text in texts]


@given(LABELS)
def test_every_image_is_trained_with_its_own_notes(labels: list[str]) -> None:
    known = records(labels)
    assert owners("G", known) == [record.image_id for record in known]
    both = training_texts(ARMS["mixed"], known, sets(known), seed=0)
    assert [texts[0] for texts in both] == ["G-findings img-0", "G-findings-blinded img-0"]


@given(LABELS, st.integers(0, 99))
def test_random_notes_are_a_permutation_without_own_notes(labels: list[str], seed: int) -> None:
    known = records(labels)
    note_owner_ids = owners("random", known, seed=seed)
    assert sorted(note_owner_ids) == sorted(record.image_id for record in known)
    assert all(owner != record.image_id for owner, record in zip(note_owner_ids, known, strict=True))


@given(LABELS, st.integers(0, 99))
def test_shuffled_notes_stay_within_the_class(labels: list[str], seed: int) -> None:
    known = records(labels)
    label_of = {record.image_id: record.label for record in known}
    note_owner_ids = owners("shuffled", known, seed=seed)
    assert sorted(note_owner_ids) == sorted(label_of)
    for owner, record in zip(note_owner_ids, known, strict=True):
        assert label_of[owner] == record.label
        assert owner != record.image_id or labels.count(record.label) == 1


def test_note_owners_depend_on_the_seed() -> None:
    known = records(["NEV", "MEL"] * 20)
    assert owners("random", known, seed=0) != owners("random", known, seed=1)
    assert owners("random", known, seed=0) == owners("random", known, seed=0)


def test_random_notes_need_more_than_one_image() -> None:
    with pytest.raises(UserError, match="no other"):
        owners("random", records(["NEV"]))


def test_the_class_name_arm_requires_no_notes() -> None:
    assert training_texts(ARMS["class-name"], records(["NEV", "MEL"]), {}, seed=0) == [["nevus", "melanoma"]]
    assert ARMS["class-name"].required_sets == ()


def test_every_arm_is_tested_with_blinded_notes_only() -> None:
    for name, arm in ARMS.items():
        assert not arm.uses_test_notes or NOTE_SETS[arm.test_notes].blinded, name
    assert {name for name, one in NOTE_SETS.items() if not one.blinded} == NAMING_SETS
    assert "diagnosis" in ALL_TOPICS
    assert "diagnosis" not in BLINDED


def dataset(name: str, known: tuple[Record, ...]) -> LesionDataset:
    return LesionDataset(name, known, ("NEV", "MEL"), synthetic=True, licence="CC0-1.0")


def test_notes_state_facts_that_every_data_set_records() -> None:
    one = dataset("one", records(["NEV", "MEL"], age=50, sex="male", site="back", diagnosis="nevus"))
    two = dataset("two", records(["NEV", "MEL"], age=40, site="face", diagnosis="nevus", symptoms=Symptoms(itch="yes")))
    facts = common_facts([one, two])
    assert facts == ("age", "diagnosis", "site")
    assert keep_facts(one, facts).records[0].metadata.given() == {"age": 50, "site": "back", "diagnosis": "nevus"}
    assert keep_facts(two, facts).records[0].metadata.given() == {"age": 40, "site": "face", "diagnosis": "nevus"}


def test_findings_are_kept_even_if_not_common() -> None:
    one = dataset("one", records(["NEV"], age=50, diagnosis="nevus", findings=Findings(border="sharp")))
    assert keep_facts(one, ("diagnosis",)).records[0].metadata.given() == {
        "diagnosis": "nevus",
        "findings": {"border": "sharp"},
    }


def test_a_rare_fact_is_not_common() -> None:
    few = dataset("few", (*records(["NEV"], age=50, diagnosis="nevus"), *records(["MEL"] * 3, diagnosis="melanoma")))
    assert common_facts([few]) == ("diagnosis",)


def test_a_record_with_only_a_diagnosis_has_no_blinded_note() -> None:
    (bare,) = records(["NEV"], diagnosis="nevus")
    (seen,) = records(["NEV"], diagnosis="nevus", findings=Findings(border="sharp"))
    assert has_facts(bare, blinded=False, findings=False)
    assert not has_facts(bare, blinded=True, findings=True)
    assert has_facts(seen, blinded=True, findings=True)
    assert not has_facts(seen, blinded=True, findings=False)


def test_a_table_contains_facts_but_no_diagnosis() -> None:
    known = (
        *records(["NEV"], age=47, site="back", diagnosis="nevus", findings=Findings(colours=["red", "white"])),
        *records(["MEL"], age=62, site="face", diagnosis="melanoma"),
    )
    with_findings, without = FactTable(known, findings=True), FactTable(known, findings=False)
    assert sorted(without.columns) == ["age=4", "age=6", "site=back", "site=face"]
    assert sorted(set(with_findings.columns) - set(without.columns)) == [
        "findings.colours=red",
        "findings.colours=white",
    ]
    assert without.rows(known).tolist() == [[1, 0, 1, 0, pytest.approx(0.47)], [0, 1, 0, 1, pytest.approx(0.62)]]


def test_a_value_that_is_not_in_training_has_no_column() -> None:
    table = FactTable(records(["NEV"], site="back", diagnosis="nevus"), findings=False)
    assert table.rows(records(["NEV"], site="scalp", diagnosis="nevus")).tolist() == [[0.0, 0.0]]


@given(LABELS)
def test_note_owners_match_the_training_texts(labels: list[str]) -> None:
    known = records(labels)
    for arm in ("G", "random", "shuffled"):
        rows = note_owners(ARMS[arm], known, seed=3)
        assert [known[row].image_id for row in rows] == owners(arm, known, seed=3)


def test_listed_facts_are_those_that_a_note_of_the_set_may_state() -> None:
    (record,) = records(
        ["MEL"], diagnosis="melanoma", age=45, symptoms=Symptoms(itch="yes"), findings=Findings(asymmetry="asymmetric")
    )
    everything = FactScope(diagnosis=True, findings=True, others=True)
    assert list_facts(record, scope=NOTE_SETS["G-blinded"].scope) == "age: 45; itch: yes"
    assert (
        list_facts(record, scope=NOTE_SETS["G-findings-blinded"].scope) == "age: 45; itch: yes; asymmetry: asymmetric"
    )
    assert list_facts(record, scope=NOTE_SETS["P3"].scope) == "age: 45; itch: yes"
    for name in ("M", "P1", "P2"):
        assert list_facts(record, scope=NOTE_SETS[name].scope) == "diagnosis: melanoma"
    assert "melanoma" in list_facts(record, scope=everything)
    (bare,) = records(["MEL"], diagnosis="melanoma")
    assert list_facts(bare, scope=NOTE_SETS["G-findings-blinded"].scope) == "nothing recorded"
