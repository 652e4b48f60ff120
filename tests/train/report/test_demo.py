"""The demo report: one self-contained HTML file that shows texts unchanged and escaped."""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from dermnote_contracts.manifest import ModelManifest, Preprocessing
from dermnote_contracts.metadata import LesionMetadata
from dermnote_contracts.notes import ModelInfo
from dermnote_contracts.retrieval import Hit, IndexInfo
from dermnote_train.config import TrainConfig
from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.demo import Arm, DemoPlan, DemoResult, QueryResult, RankedHit
from dermnote_train.evaluation.results import (
    Classification,
    ClassRetrieval,
    Evaluation,
    InstanceRetrieval,
    Interval,
    Retrieval,
    Subgroup,
)
from dermnote_train.index import IndexRun
from dermnote_train.models.model import LesionModel
from dermnote_train.models.towers import Towers
from dermnote_train.notes.request import NotesRun
from dermnote_train.notes.table import NoteRow
from dermnote_train.report.demo import render, write_report
from dermnote_train.report.images import thumbnail
from dermnote_train.training.train import EpochRow, TrainResult

CREATED_AT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
HOSTILE = '<script>alert("x")</script> & <img src="http://evil.example/x.png">'
CLASSES = ("NEV", "MEL")
NAN = float("nan")
Make = Callable[..., DemoResult]


def interval(value: float) -> Interval:
    return Interval(value, value - 0.1234, value + 0.1234)


RETRIEVAL = Retrieval(
    class_level=ClassRetrieval(
        precision_at={1: interval(0.611), 5: interval(0.622), 10: interval(0.633)},
        mean_average_precision=interval(0.644),
        chance_precision=0.511,
        chance_map=0.522,
        queries=4,
    ),
    instance_level=InstanceRetrieval(
        recall_at={1: interval(0.255), 5: interval(0.266), 10: interval(0.277)},
        chance_recall_at={1: 0.131, 5: 0.141, 10: 0.151},
        median_rank=2.5,
        pool=4,
        distinct_notes=3,
    ),
)
EVALUATION = Evaluation(
    n=4,
    groups=3,
    classes=CLASSES,
    classification=Classification(
        balanced_accuracy=interval(0.711),
        f1_macro=interval(0.722),
        f1_micro=0.733,
        f1_weighted=0.744,
        kappa_linear=0.455,
        auroc_macro=interval(0.766),
        calibration_error=interval(0.177),
        chance=0.499,
        confusion=((2, 0), (1, 1)),
    ),
    subgroups=(Subgroup("fitzpatrick_skin_type", "IV", 31, 29, 2, interval(0.677), 0.488),),
    image_to_note=RETRIEVAL,
    note_to_image=RETRIEVAL,
    images_per_s=10,
)
MANIFEST = ModelManifest(
    name="demo-drawn",
    model_id="demo-drawn-0123456789ab",
    aligned=True,
    image_dim=128,
    text_dim=128,
    context_tokens=128,
    preprocessing=Preprocessing(image_size=64, mean=(0, 0, 0), std=(1, 1, 1)),
    files={},
    created_at=CREATED_AT,
    made_by="dermnote-train",
)


@pytest.fixture
def make(tmp_path: Path, lite_towers: Towers) -> Make:
    """A demo result with ten records, every second one a melanoma."""
    model = LesionModel(lite_towers, classes=CLASSES, with_notes=True)

    def made(
        *, synthetic: bool = True, texts: dict[str, str] | None = None, evaluation: Evaluation = EVALUATION
    ) -> DemoResult:
        records = [_record(tmp_path, number) for number in range(10)]
        dataset = LesionDataset("drawn", tuple(records), CLASSES, synthetic=synthetic, licence="CC0-1.0")
        rows = tuple(_row(record, (texts or {}).get(record.image_id), synthetic=synthetic) for record in records)
        arms = tuple(
            Arm(name, TrainResult(tmp_path, _history(), 2, 12.0, model), evaluation=evaluated)
            for name, evaluated in (
                ("image + notes", evaluation),
                ("images alone", replace(evaluation, image_to_note=None, note_to_image=None)),
            )
        )
        hits = [_hit(record, rank, rows[int(record.image_id)].text) for rank, record in enumerate(records[:3], 1)]
        return DemoResult(
            dataset=dataset,
            plan=DemoPlan(strategy="P2", config=TrainConfig(epochs=3)),
            split=Split(tuple(records[:4]), tuple(records[4:6]), tuple(records[6:]), 0),
            notes=NotesRun(rows, {}, requested=10, seconds=4.0, path=tmp_path / "notes.parquet"),
            language_model=ModelInfo(name="smol", sha256="c" * 64, context_tokens=2048, engine="llama.cpp"),
            arms=arms,
            manifest=MANIFEST,
            index=IndexRun(created=6, updated=0, failed={}, seconds=1.0),
            index_info=IndexInfo(items=6, model=MANIFEST.model_id, aligned=True, routes={}),
            queries=(QueryResult(records[6], tuple(hits), ("notes", "images"), 7.0),),
            seconds={"notes": 4.0, "training": 9.0},
        )

    return made


def _record(folder: Path, number: int) -> Record:
    path = folder / f"{number}.png"
    Image.new("RGB", (40, 30), (20 * number, 80, 80)).save(path)
    facts = LesionMetadata(age=40 + number, sex="female", diagnosis="melanoma" if number % 2 else "nevus")
    return Record(str(number), path, f"drawn:p{number}", CLASSES[number % 2], facts)


def _row(record: Record, text: str | None, *, synthetic: bool) -> NoteRow:
    by_template = record.image_id == "9"
    return NoteRow(
        image_id=record.image_id,
        dataset="drawn",
        group=record.group,
        label=record.label,
        text=text or f"Note number {record.image_id}, word for word.",
        strategy="P2",
        faithful=True,
        coverage=1.0,
        faults="{}",
        source="template" if by_template else "llm",
        attempts=4 if by_template else 1,
        seed=11,
        model="smol",
        model_sha256="c" * 64,
        prompt_version="P2-1",
        priors_version=None,
        sampled_tokens=30,
        synthetic=True,
        synthetic_image=synthetic,
        request=record.image_id * 64,
    )


def _history() -> tuple[EpochRow, ...]:
    return tuple(EpochRow(epoch, 2 / epoch, 1, 1, 1, 1, 1, 0, 0, 1 / epoch, 0.5, 12.0) for epoch in (1, 2, 3))


def _hit(record: Record, rank: int, note: str) -> RankedHit:
    hit = Hit(
        id=f"drawn-{record.image_id}",
        score=0.03 / rank,
        rank=rank,
        ranks={"images": rank},
        note=note,
        metadata={},
        group=record.group,
        image=None,
    )
    return RankedHit(hit, record, same_class=record.label == "NEV")


@dataclass
class Page:
    """A page as a browser parses it: elements with attributes, and text."""

    elements: list[tuple[str, dict[str, str | None]]]
    text: str


def read(html: str) -> Page:
    elements: list[tuple[str, dict[str, str | None]]] = []
    texts: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            elements.append((tag, dict(attrs)))

        def handle_data(self, data: str) -> None:
            texts.append(data)

    Reader().feed(html)
    return Page(elements, " ".join(" ".join(texts).split()))


def page(result: DemoResult) -> Page:
    return read(render(result, created_at=CREATED_AT))


def test_a_report_is_one_self_contained_file(make: Make, tmp_path: Path) -> None:
    path = write_report(make(), tmp_path / "new" / "report.html")

    html = path.read_text("utf-8")
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]
    assert html.startswith("<!doctype html>")
    shown = read(html)
    links = [
        value
        for _, attributes in shown.elements
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href")
        if (value := attributes.get(name)) is not None
    ]
    assert links
    assert all(link.startswith("data:image/") for link in links)
    assert not {tag for tag, _ in shown.elements} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"@import|url\(|https?://", html)


def test_every_image_and_curve_is_embedded_and_valid(make: Make) -> None:
    shown = page(make())

    images = [attributes for tag, attributes in shown.elements if tag == "img"]
    assert all(attributes["alt"] for attributes in images)
    kinds = [str(attributes["src"]).partition(";")[0] for attributes in images]
    assert kinds.count("data:image/svg+xml") == 3
    assert kinds.count("data:image/jpeg") == 1 + 3 + len(CLASSES)
    for attributes in images:
        content = base64.b64decode(str(attributes["src"]).partition("base64,")[2], validate=True)
        if content[:1] == b"\xff":
            with Image.open(io.BytesIO(content)) as picture:
                assert picture.size[0] == picture.size[1]
        else:
            assert b"<svg" in content
            assert not re.search(rb'(href|src)="http', content)


def test_notes_are_shown_unchanged(make: Make) -> None:
    text = 'Eine 46-jährige “Patientin”  with  two spaces, 3 < 4 & "quotes".'
    result = make(texts={"6": text, "0": "The note of a hit – exactly."})

    html = render(result, created_at=CREATED_AT)

    assert unescape(html).count(text) == 1
    assert "The note of a hit – exactly." in html
    assert "Note number 1, word for word." in html


def test_values_are_escaped(make: Make) -> None:
    result = make(texts=dict.fromkeys("0123456789", HOSTILE))
    odd = replace(result.dataset, name=HOSTILE, licence=HOSTILE)
    model = result.language_model.model_copy(update={"name": HOSTILE})
    arms = tuple(replace(arm, name=HOSTILE) for arm in result.arms)
    evil = replace(result, dataset=odd, language_model=model, arms=arms, seconds={HOSTILE: 1.0})

    shown = page(evil)

    assert 'alert("x")' in shown.text
    assert "script" not in {tag for tag, _ in shown.elements}
    assert all(str(attributes["src"]).startswith("data:") for tag, attributes in shown.elements if tag == "img")
    assert not [name for _, attributes in shown.elements for name in attributes if name.startswith("on")]


def test_drawn_images_are_labelled_synthetic_and_photographs_are_not(make: Make) -> None:
    drawn, real = page(make()).text, page(make(synthetic=False)).text

    assert "SYNTHETIC: these images are drawn by a program" in drawn
    assert "they say nothing about skin" in drawn
    assert "SYNTHETIC" not in real
    assert "drawn by a program" not in real
    for text in (drawn, real):
        assert "synthetic note" in text
        assert "Not for clinical use" in text


def test_every_metric_has_its_interval_and_chance(make: Make) -> None:
    html = render(make(), created_at=CREATED_AT)

    rows = [re.sub(r"<[^>]+>|\s+", " ", row) for row in re.findall(r"<tr>.*?</tr>", html, re.DOTALL)]

    def row(name: str) -> str:
        return next(" ".join(row.split()) for row in rows if row.split()[: len(name.split())] == name.split())

    assert row("balanced accuracy") == "balanced accuracy .711 .588 to .834 .499"
    assert row("F1 macro") == "F1 macro .722 .599 to .845"
    assert row("kappa (linear weights)") == "kappa (linear weights) .455 .000"
    assert row("AUROC macro") == "AUROC macro (one-vs-rest) .766 .643 to .889 .500"
    assert row("calibration error") == "calibration error (ECE, 15 bins) .177 .054 to .300"
    assert row("fitzpatrick skin type") == "fitzpatrick skin type IV 31 2 .677 .554 to .800 .488"
    assert row("P@5") == "P@5 .622 .499 to .745 .511"
    assert row("mAP") == "mAP .644 .521 to .767 .522"
    assert row("R@10") == "R@10 .277 .154 to .400 .151"
    assert "4 held-out pairs, 3 distinct notes; median rank of the own partner 2.5, by chance 2.5" in html


def test_class_level_and_instance_level_are_separate(make: Make) -> None:
    text = page(make()).text

    for direction in ("image → note", "note → image"):
        assert f"{direction}, class level" in text
        assert f"{direction}, instance level" in text


def test_missing_metrics_are_dashes(make: Make) -> None:
    missing = Interval(NAN, NAN, NAN)
    unknown = replace(
        EVALUATION.classification, balanced_accuracy=replace(interval(0.711), low=NAN, high=NAN), kappa_linear=NAN
    )
    by_class = replace(RETRIEVAL.class_level, mean_average_precision=missing, chance_map=NAN)
    evaluation = replace(
        EVALUATION, classification=unknown, image_to_note=replace(RETRIEVAL, class_level=by_class), note_to_image=None
    )

    html = render(make(evaluation=evaluation), created_at=CREATED_AT)

    assert not re.search(r"\bnan\b", html, re.IGNORECASE)
    assert re.search(r"kappa \(linear weights\)</td><td[^>]*><b>–</b>", html)
    assert re.search(r"mAP</td><td[^>]*><b>–</b></td><td[^>]*></td><td[^>]*>–</td>", html)
    assert re.search(r"balanced accuracy</td><td[^>]*><b>\.711</b></td><td[^>]*></td>", html)


def test_a_missing_retrieval_is_reported(make: Make) -> None:
    text = page(make(evaluation=replace(EVALUATION, image_to_note=None, note_to_image=None))).text

    assert "Not measured: too few held-out images have notes" in text
    assert "P@5" not in text


def test_the_settings_are_shown(make: Make) -> None:
    text = page(make()).text

    assert "1 of 10 fell back to the template" in text
    assert "90% of the notes faithful at first try" in text
    for words in ("strategy P2, prompt P2-1, smol, sha256 cccccccccccc, engine llama.cpp", MANIFEST.model_id):
        assert words in text
    assert "2026-03-01 12:30 UTC" in text
    assert "2 of 3 of its class, 7 ms" in text
    assert "training 9 s" in text


def test_existing_notes_have_no_speed(make: Make) -> None:
    result = make()

    text = page(replace(result, notes=replace(result.notes, requested=0))).text

    assert "all notes existed already" in text


def test_a_failed_report_keeps_the_old_one(make: Make, tmp_path: Path) -> None:
    result = make()
    path = write_report(result, tmp_path / "out" / "report.html")
    before = path.read_bytes()
    result.queries[0].query.image_path.unlink()

    with pytest.raises(OSError, match="No such file"):
        write_report(result, path)

    assert path.read_bytes() == before
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_a_thumbnail_is_the_central_square_without_metadata(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGB", (90, 30), "white")
    picture.paste((0, 0, 0), (30, 0, 60, 30))
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe"
    picture.convert(mode).save(tmp_path / "wide.png", exif=exif)

    content = base64.b64decode(thumbnail(tmp_path / "wide.png", side=20).partition("base64,")[2])

    assert b"Jane" not in content
    with Image.open(io.BytesIO(content)) as square:
        assert square.size == (20, 20)
        assert max(high for _, high in square.convert("RGB").getextrema()) < 30
