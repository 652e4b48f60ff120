"""What each arm is trained with: own notes, another's, the class's name, numbers; and which facts notes may state."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermnote_contracts.metadata import Findings, LesionMetadata, Symptoms
from dermnote_contracts.notes import ALL_TOPICS
from dermnote_train.data.records import LesionDataset, Record
from dermnote_train.errors import UserError
from dermnote_train.notes.blinding import BLINDED
from dermnote_train.study.arms import ARMS, NAMED, NOTE_SETS, partners, training_texts
from dermnote_train.study.cells.fact_table import FactTable
from dermnote_train.study.facts import Stating, common_facts, known_facts, listed, with_only

LABELS = st.lists(st.sampled_from(["NEV", "MEL", "BCC"]), min_size=2, max_size=30)


def records(labels: list[str], **facts: object) -> tuple[Record, ...]:
    return tuple(
        Record(f"img-{row}", Path(f"{row}.jpg"), f"g{row}", label, LesionMetadata(**facts))  # type: ignore[arg-type]
        for row, label in enumerate(labels)
    )


def sets(known: tuple[Record, ...]) -> dict[str, dict[str, str]]:
    return {name: {record.image_id: f"{name} {record.image_id}" for record in known} for name in NOTE_SETS}


def owners(arm: str, known: tuple[Record, ...], *, seed: int = 0) -> list[str]:
    """Whose note each picture is trained with."""
    (texts,) = training_texts(ARMS[arm], known, sets(known), seed=seed)
    return [text.rpartition(" ")[2] for text in texts]


@given(LABELS)
def test_an_arm_has_each_picture_s_own_notes(labels: list[str]) -> None:
    known = records(labels)
    assert owners("G", known) == [record.image_id for record in known]
    both = training_texts(ARMS["mixed"], known, sets(known), seed=0)
    assert [texts[0] for texts in both] == ["G-findings img-0", "G-findings-blinded img-0"]


@given(LABELS, st.integers(0, 99))
def test_random_notes_are_everybody_s_once_and_nobody_s_own(labels: list[str], seed: int) -> None:
    known = records(labels)
    found = owners("random", known, seed=seed)
    assert sorted(found) == sorted(record.image_id for record in known)
    assert all(owner != record.image_id for owner, record in zip(found, known, strict=True))


@given(LABELS, st.integers(0, 99))
def test_shuffled_notes_stay_within_the_class(labels: list[str], seed: int) -> None:
    known = records(labels)
    label_of = {record.image_id: record.label for record in known}
    found = owners("shuffled", known, seed=seed)
    assert sorted(found) == sorted(label_of)
    for owner, record in zip(found, known, strict=True):
        assert label_of[owner] == record.label
        assert owner != record.image_id or labels.count(record.label) == 1


def test_partners_change_with_the_seed() -> None:
    known = records(["NEV", "MEL"] * 20)
    assert owners("random", known, seed=0) != owners("random", known, seed=1)
    assert owners("random", known, seed=0) == owners("random", known, seed=0)


def test_a_random_note_for_one_picture_alone_is_refused() -> None:
    with pytest.raises(UserError, match="no other"):
        owners("random", records(["NEV"]))


def test_the_class_name_arm_needs_no_notes() -> None:
    assert training_texts(ARMS["class-name"], records(["NEV", "MEL"]), {}, seed=0) == [["nevus", "melanoma"]]
    assert ARMS["class-name"].needs == ()


def test_every_arm_that_reads_is_tested_with_blinded_notes() -> None:
    for name, arm in ARMS.items():
        assert not arm.reads or NOTE_SETS[arm.read].blinded, name
    assert {name for name, one in NOTE_SETS.items() if not one.blinded} == NAMED
    assert "diagnosis" in ALL_TOPICS
    assert "diagnosis" not in BLINDED


def dataset(name: str, known: tuple[Record, ...]) -> LesionDataset:
    return LesionDataset(name, known, ("NEV", "MEL"), synthetic=True, licence="CC0-1.0")


def test_notes_state_what_every_data_set_fills() -> None:
    one = dataset("one", records(["NEV", "MEL"], age=50, sex="male", site="back", diagnosis="nevus"))
    two = dataset("two", records(["NEV", "MEL"], age=40, site="face", diagnosis="nevus", symptoms=Symptoms(itch="yes")))
    facts = common_facts([one, two])
    assert facts == ("age", "diagnosis", "site")
    assert with_only(one, facts).records[0].metadata.given() == {"age": 50, "site": "back", "diagnosis": "nevus"}
    assert with_only(two, facts).records[0].metadata.given() == {"age": 40, "site": "face", "diagnosis": "nevus"}


def test_findings_stay_whatever_is_common() -> None:
    one = dataset("one", records(["NEV"], age=50, diagnosis="nevus", findings=Findings(border="sharp")))
    assert with_only(one, ("diagnosis",)).records[0].metadata.given() == {
        "diagnosis": "nevus",
        "findings": {"border": "sharp"},
    }


def test_a_fact_that_few_have_is_not_common() -> None:
    few = dataset("few", (*records(["NEV"], age=50, diagnosis="nevus"), *records(["MEL"] * 3, diagnosis="melanoma")))
    assert common_facts([few]) == ("diagnosis",)


def test_a_record_of_which_only_the_diagnosis_is_known_has_no_blinded_note() -> None:
    (bare,) = records(["NEV"], diagnosis="nevus")
    (seen,) = records(["NEV"], diagnosis="nevus", findings=Findings(border="sharp"))
    assert known_facts(bare, blinded=False, findings=False)
    assert not known_facts(bare, blinded=True, findings=True)
    assert known_facts(seen, blinded=True, findings=True)
    assert not known_facts(seen, blinded=True, findings=False)


def test_a_table_holds_the_facts_and_never_the_diagnosis() -> None:
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


def test_a_value_that_training_never_had_is_no_column() -> None:
    table = FactTable(records(["NEV"], site="back", diagnosis="nevus"), findings=False)
    assert table.rows(records(["NEV"], site="scalp", diagnosis="nevus")).tolist() == [[0.0, 0.0]]


@given(LABELS)
def test_partners_are_those_whose_texts_are_read(labels: list[str]) -> None:
    known = records(labels)
    for arm in ("G", "random", "shuffled"):
        rows = partners(ARMS[arm], known, seed=3)
        assert [known[row].image_id for row in rows] == owners(arm, known, seed=3)


def test_facts_are_listed_as_a_blinded_note_may_state_them() -> None:
    (record,) = records(
        ["MEL"], diagnosis="melanoma", age=45, symptoms=Symptoms(itch="yes"), findings=Findings(asymmetry="asymmetric")
    )
    everything = Stating(diagnosis=True, findings=True, others=True)
    assert listed(record, stating=NOTE_SETS["G-blinded"].stating) == "age: 45; itch: yes"
    assert (
        listed(record, stating=NOTE_SETS["G-findings-blinded"].stating) == "age: 45; itch: yes; asymmetry: asymmetric"
    )
    assert listed(record, stating=NOTE_SETS["P3"].stating) == "age: 45; itch: yes"
    for name in ("M", "P1", "P2"):
        assert listed(record, stating=NOTE_SETS[name].stating) == "diagnosis: melanoma"
    assert "melanoma" in listed(record, stating=everything)
    (bare,) = records(["MEL"], diagnosis="melanoma")
    assert listed(bare, stating=NOTE_SETS["G-findings-blinded"].stating) == "nothing recorded"
