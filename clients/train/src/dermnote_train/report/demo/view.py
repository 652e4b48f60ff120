"""What the report shows, worked out from a run: values in, values and words out. No HTML, no files but pictures."""

import math
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version

from dermnote_train.data.records import Record
from dermnote_train.demo import Arm, DemoResult, QueryResult
from dermnote_train.evaluation.results import Evaluation, Interval, Retrieval
from dermnote_train.evaluation.tables import number
from dermnote_train.notes.table import NoteRow
from dermnote_train.report.charts import Curve, chart
from dermnote_train.report.images import thumbnail

SAMPLES = 5
PACKAGES = ("dermnote-train", "dermnote-contracts", "torch", "open_clip_torch", "timm", "numpy")


@dataclass(frozen=True)
class Tile:
    """One of the figures at the top."""

    value: str
    name: str
    remark: str


@dataclass(frozen=True)
class Bar:
    """A figure with its interval and chance, also as shares of a scale from 0 to 1 for a small drawing."""

    name: str
    value: str
    interval: str
    chance: str
    at: float | None
    low: float | None
    high: float | None
    chance_at: float | None


def tiles(result: DemoResult) -> list[Tile]:
    """The figures that a reader looks for first."""
    rows, model = result.notes.rows, result.model.evaluation
    accuracy = model.classification.balanced_accuracy
    first = sum(row.faithful_at_first for row in rows)
    shown = [
        Tile(
            f"{first / len(rows):.0%}",
            "of the notes faithful at first try",
            f"{_fallbacks(rows)} of {len(rows)} fell back to the template",
        ),
        Tile(
            number(accuracy.value),
            "balanced accuracy, pictures alone",
            f"95 % interval {number(accuracy.low)} to {number(accuracy.high)}, chance "
            f"{number(model.classification.chance)}",
        ),
    ]
    if model.image_to_note is not None:
        by_class = model.image_to_note.class_level
        k = 5 if 5 in by_class.precision_at else max(by_class.precision_at)
        value = number(by_class.precision_at[k].value)
        shown.append(
            Tile(value, f"class P@{k}, picture → note", f"held-out notes, chance {number(by_class.chance_precision)}")
        )
    speed = result.notes.notes_per_s
    written = (
        "all there already" if speed is None else f"{result.notes.requested} written in {result.notes.seconds:.0f} s"
    )
    return [*shown, Tile("–" if speed is None else f"{speed:.1f}", "notes a second", written)]


def _fallbacks(rows: tuple[NoteRow, ...]) -> int:
    return sum(row.source == "template" and row.strategy != "M" for row in rows)


def note_figures(result: DemoResult) -> list[tuple[str, str]]:
    """How the notes came about, in words and numbers."""
    rows = result.notes.rows
    words = sorted(len(row.text.split()) for row in rows)
    return [
        ("notes", str(len(rows))),
        ("faithful at first try", _share(sum(row.faithful_at_first for row in rows), len(rows))),
        ("faithful as delivered", _share(sum(row.faithful for row in rows), len(rows))),
        ("written by the language model", _share(sum(row.source == "llm" for row in rows), len(rows))),
        ("mean coverage of the facts to state", number(sum(row.coverage for row in rows) / len(rows))),
        ("mean attempts of the model", f"{sum(row.attempts for row in rows) / len(rows):.2f}"),
        ("different texts", _share(len({row.text for row in rows}), len(rows))),
        ("words, median (shortest to longest)", f"{words[len(words) // 2]} ({words[0]} to {words[-1]})"),
    ]


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.0%})"


def note_samples(result: DemoResult) -> list[dict[str, object]]:
    """Held-out records with their notes word for word: one a class, the model's own before the template's."""
    rows = {row.image_id: row for row in result.notes.rows}
    samples = []
    for name in result.dataset.classes[:SAMPLES]:
        of_class = [record for record in result.split.test if record.label == name]
        record = min(of_class, key=lambda one: rows[one.image_id].source != "llm")
        samples.append(
            {
                "record": record,
                "picture": thumbnail(record.image_path),
                "row": rows[record.image_id],
                "facts": facts(record),
            }
        )
    return samples


def facts(record: Record) -> str:
    """The metadata in a few words: "61 · male · back"."""
    known = record.metadata
    given = (known.age, known.sex, known.site)
    return " · ".join(str(value) for value in given if value is not None) or "no age, sex or site given"


def data_table(result: DemoResult) -> dict[str, object]:
    """Images of every class in every part, and the counts of images and groups."""
    parts = {"training": result.split.train, "validation": result.split.val, "held out": result.split.test}
    counts = {part: Counter(record.label for record in records) for part, records in parts.items()}
    return {
        "parts": list(parts),
        "rows": [(name, [counts[part][name] for part in parts]) for name in result.dataset.classes],
        "images": [len(records) for records in parts.values()],
        "groups": [len({record.group for record in records}) for records in parts.values()],
    }


def curves(result: DemoResult) -> list[str]:
    """Loss, validation cross-entropy and validation accuracy over the epochs."""
    chance = result.model.evaluation.classification.chance

    def over(arms: tuple[Arm, ...], field: str) -> list[Curve]:
        return [
            Curve(arm.name, [getattr(row, field) for row in arm.result.history], arm.result.best_epoch) for arm in arms
        ]

    return [
        chart("Training loss, image + notes", over(result.arms[:1], "loss")),
        chart("Validation cross-entropy", over(result.arms, "val_ce")),
        chart(
            "Validation balanced accuracy", over(result.arms, "val_balanced_accuracy"), floor=chance, unit_range=True
        ),
    ]


def classification_bars(arm: Arm) -> list[Bar]:
    """Classification by the picture alone."""
    scores = arm.evaluation.classification
    return [
        bar("Balanced accuracy", scores.balanced_accuracy, chance=scores.chance),
        bar("F1 macro", scores.f1_macro),
        bar("F1 micro", _point(scores.f1_micro)),
        bar("F1 weighted", _point(scores.f1_weighted)),
        bar("Kappa, linear weights", _point(scores.kappa_linear), chance=0.0),
        bar("AUROC macro", scores.auroc_macro, chance=0.5),
        bar("Calibration error", scores.calibration_error),
    ]


def retrieval_bars(found: Evaluation) -> list[tuple[str, list[Bar], list[Bar], str]]:
    """Both directions: name, class-level bars, instance-level bars, a remark on the pool."""
    named = (("Picture → note", found.image_to_note), ("Note → picture", found.note_to_image))
    return [(name, _class_bars(one), _own_bars(one), _pool(one)) for name, one in named if one is not None]


def _class_bars(found: Retrieval) -> list[Bar]:
    level = found.class_level
    return [
        *(bar(f"P@{k}", value, chance=level.chance_precision) for k, value in level.precision_at.items()),
        bar("mAP", level.mean_average_precision, chance=level.chance_map),
    ]


def _own_bars(found: Retrieval) -> list[Bar]:
    level = found.instance_level
    return [bar(f"R@{k}", value, chance=level.chance_recall_at[k]) for k, value in level.recall_at.items()]


def _pool(found: Retrieval) -> str:
    own = found.instance_level
    chance = f"{(own.pool + 1) / 2:g}"
    return (
        f"{own.pool} held-out pairs, {own.distinct_notes} different notes; median rank of the own partner "
        f"{own.median_rank:g}, by chance {chance}"
    )


def bar(name: str, value: Interval, *, chance: float | None = None) -> Bar:
    """A figure as text and as places on a scale from 0 to 1."""
    has_interval = not (math.isnan(value.low) or value.low == value.high == value.value)
    return Bar(
        name=name,
        value=number(value.value),
        interval=f"{number(value.low)} – {number(value.high)}" if has_interval else "",
        chance="" if chance is None else number(chance),
        at=_place(value.value),
        low=_place(value.low) if has_interval else None,
        high=_place(value.high) if has_interval else None,
        chance_at=None if chance is None else _place(chance),
    )


def _point(value: float) -> Interval:
    return Interval(value, value, value)


def _place(value: float) -> float | None:
    return None if math.isnan(value) else min(max(value, 0.0), 1.0)


def confusion(arm: Arm) -> list[tuple[str, list[tuple[int, float]]]]:
    """A row a true class: counts, and their share of the row."""
    found = arm.evaluation
    return [
        (name, [(count, count / max(sum(row), 1)) for count in row])
        for name, row in zip(found.classes, found.classification.confusion, strict=True)
    ]


def queries(result: DemoResult) -> list[dict[str, object]]:
    """Every query with its hits, pictures and marks."""
    return [_query(found) for found in result.queries]


def _query(found: QueryResult) -> dict[str, object]:
    return {
        "record": found.query,
        "picture": thumbnail(found.query.image_path),
        "facts": facts(found.query),
        "took_ms": found.took_ms,
        "right": sum(hit.same_class for hit in found.hits),
        "hits": [{"found": hit, "picture": thumbnail(hit.record.image_path)} for hit in found.hits],
    }


def settings(result: DemoResult) -> list[tuple[str, str]]:
    """What was run, with what."""
    plan, config, language, run = result.plan, result.plan.config, result.language_model, result.model.result
    sha = f", sha256 {language.sha256[:12]}" if language.sha256 else ""
    prompts = ", ".join(sorted({row.prompt_version for row in result.notes.rows}))
    schedule = f"{config.image_size} px, at most {config.epochs} epochs, batch {config.batch_size}, seed {config.seed}"
    stored = result.index.stored
    return [
        ("Data", f"{result.dataset.name}, {result.dataset.licence}, classes {', '.join(result.dataset.classes)}"),
        ("Notes", f"strategy {plan.strategy}, prompt {prompts}, {language.name}{sha}, engine {language.engine}"),
        ("Training", f"preset {config.preset}, {schedule}"),
        ("Kept", f"epoch {run.best_epoch} of {len(run.history)}, {run.images_per_s:.0f} images/s"),
        ("Model", f"{result.manifest.name}, id {result.manifest.model_id}"),
        ("Index", f"{stored} items of this run, {result.index_info.items} in all; search via {plan.via}, k {plan.k}"),
        ("Wall time", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())),
        ("Versions", ", ".join(f"{name} {version(name)}" for name in PACKAGES)),
    ]
