"""A study's note sets: the requests of each, shared notes, and the replacement for images without facts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dermnote_contracts.metadata import Findings, LesionMetadata
from dermnote_train.data.records import LesionDataset, Record
from dermnote_train.errors import UserError
from dermnote_train.remote.notegen import NoteService
from dermnote_train.study.note_sets import NOTHING_RECORDED, NoteSetTexts, write_note_sets
from tests.train.servers import ManualNoteService, manual_note_service, valkey


@pytest.fixture(scope="module")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture
def notegen(valkey_url: str) -> Iterator[ManualNoteService]:
    with manual_note_service(valkey_url) as service:
        yield service


def dataset(count: int, *, known: bool = True) -> LesionDataset:
    """Two diagnoses in turn; ages that all differ."""
    names = ("nevus", "melanoma")
    seen = Findings(border="sharp")
    facts = [
        LesionMetadata(diagnosis=names[n % 2], findings=seen, **({"age": 20 + n} if known else {}))
        for n in range(count)
    ]
    records = tuple(Record(f"i{n}", Path(f"{n}.jpg"), f"g{n}", "NEV", one) for n, one in enumerate(facts))
    return LesionDataset("drawn", records, ("NEV",), synthetic=True, licence="CC0-1.0")


def write(notegen: ManualNoteService, out: Path, name: str, data: LesionDataset) -> NoteSetTexts:
    with NoteService(notegen.url, patience_s=0.2) as service:
        return write_note_sets(service, data, names=[name], seed=0, out=out, progress=lambda _: notegen.work())[name]


def test_every_image_has_its_own_verified_note(notegen: ManualNoteService, tmp_path: Path) -> None:
    notes = write(notegen, tmp_path, "G", dataset(6))
    assert len(notes.rows) == len(notegen.requests) == len(set(notes.texts.values())) == 6
    assert all(request.options.on_unfaithful == "retry" for request in notegen.requests)
    assert all(not request.metadata.findings.given() for request in notegen.requests), (
        "only sets with findings state them"
    )


def test_findings_are_requested_for_sets_that_state_them(notegen: ManualNoteService, tmp_path: Path) -> None:
    write(notegen, tmp_path, "G-findings", dataset(4))
    assert all(request.metadata.findings.border == "sharp" for request in notegen.requests)


def test_p2_is_written_from_the_class_alone_and_24_texts_per_class_are_shared(
    notegen: ManualNoteService, tmp_path: Path
) -> None:
    notes = write(notegen, tmp_path, "P2", dataset(80))
    assert len(notegen.requests) == len(notes.rows) == 48
    assert {tuple(request.metadata.given()) for request in notegen.requests} == {("diagnosis",)}
    assert all(request.options.on_unfaithful == "keep" for request in notegen.requests)
    assert len({request.options.seed for request in notegen.requests}) == 48
    assert len(notes.texts) == 80
    assert all(("nevus" in notes.texts[f"i{n}"]) == (n % 2 == 0) for n in range(80)), "of the same class"


def test_images_with_equal_facts_share_a_p3_note_whatever_the_diagnosis(
    notegen: ManualNoteService, tmp_path: Path
) -> None:
    records = tuple(
        Record(f"i{n}", Path("x.jpg"), "g", "NEV", LesionMetadata(age=50, diagnosis=name))
        for n, name in enumerate(("nevus", "melanoma"))
    )
    notes = write(notegen, tmp_path, "P3", LesionDataset("drawn", records, ("NEV",), synthetic=True, licence="CC0-1.0"))
    assert len(notegen.requests) == 1
    assert notes.texts["i0"] == notes.texts["i1"]


def test_without_known_facts_a_fixed_sentence_replaces_the_note(notegen: ManualNoteService, tmp_path: Path) -> None:
    notes = write(notegen, tmp_path, "P3", dataset(3, known=False))
    assert set(notes.texts.values()) == {NOTHING_RECORDED}
    assert notes.without_facts == 3
    assert notegen.requests == []


def test_a_blinded_set_whose_notes_name_a_diagnosis_is_rejected(notegen: ManualNoteService, tmp_path: Path) -> None:
    """Every note that ManualNoteService writes names the diagnosis."""
    with pytest.raises(UserError, match="name a diagnosis"):
        write(notegen, tmp_path, "G-blinded", dataset(2))


def test_failed_notes_stop_the_study_with_a_count_and_a_reason(notegen: ManualNoteService, tmp_path: Path) -> None:
    notegen.failing = {21}
    with pytest.raises(UserError, match=r"drawn: 1 notes of G failed \(first i1: the ink is dry\)"):
        write(notegen, tmp_path, "G", dataset(3))
    notegen.failing = set()
    assert len(write(notegen, tmp_path, "G", dataset(3)).texts) == 3
    assert len(notegen.requests) == 4, "the other two were kept"
