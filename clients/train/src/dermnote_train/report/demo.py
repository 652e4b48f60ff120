"""The report of `dermnote demo`."""

from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from dermnote_train.data.records import Record
from dermnote_train.demo import Arm, DemoResult
from dermnote_train.evaluation.tables import (
    class_level_rows,
    classification_rows,
    format_interval,
    format_number,
    instance_level_rows,
    retrieval_directions,
)
from dermnote_train.files import write_text
from dermnote_train.notes.table import NoteRow
from dermnote_train.report.charts import Curve, chart
from dermnote_train.report.page import render_page

SAMPLES = 5
PACKAGES = ("dermnote-train", "dermnote-contracts", "torch", "open_clip_torch", "timm", "numpy")


def write_report(result: DemoResult, path: Path) -> Path:
    """Write the report of a run as one self-contained HTML file; returns its path."""
    write_text(path, render(result, created_at=datetime.now(UTC)))
    return path


def render(result: DemoResult, *, created_at: datetime) -> str:
    """The report as HTML."""
    return render_page(
        "report.html.j2",
        result=result,
        created_at=f"{created_at:%Y-%m-%d %H:%M} UTC",
        tiles=_tiles(result),
        note_metrics=_note_metrics(result),
        samples=_note_samples(result),
        data=_data_table(result),
        curves=_curves(result),
        arms=[(arm, classification_rows(arm.evaluation.classification)) for arm in result.arms],
        retrieval=[
            (name, class_level_rows(one), instance_level_rows(one), one.instance_level)
            for name, one in retrieval_directions(result.model.evaluation)
        ],
        settings=_settings(result),
    )


def _tiles(result: DemoResult) -> list[tuple[str, str, str]]:
    """The large numbers at the top, each with its name and a remark."""
    rows, model = result.notes.rows, result.model.evaluation
    accuracy = model.classification.balanced_accuracy
    faithful = sum(row.faithful_at_first for row in rows)
    fallbacks = sum(row.source == "template" and row.strategy != "M" for row in rows)
    tiles = [
        (
            f"{faithful / len(rows):.0%}",
            "of the notes faithful at first try",
            f"{fallbacks} of {len(rows)} fell back to the template",
        ),
        (
            format_number(accuracy.value),
            "balanced accuracy, images alone",
            f"95 % interval {format_interval(accuracy)}, chance {format_number(model.classification.chance)}",
        ),
    ]
    if model.image_to_note is not None:
        by_class = model.image_to_note.class_level
        k = 5 if 5 in by_class.precision_at else max(by_class.precision_at)
        remark = f"held-out notes, chance {format_number(by_class.chance_precision)}"
        tiles.append((format_number(by_class.precision_at[k].value), f"class P@{k}, image → note", remark))
    if (speed := result.notes.notes_per_s) is None:
        return [*tiles, ("–", "notes per second", "all notes existed already")]
    remark = f"{result.notes.requested} written in {result.notes.seconds:.0f} s"
    return [*tiles, (f"{speed:.1f}", "notes per second", remark)]


def _note_metrics(result: DemoResult) -> list[tuple[str, str]]:
    rows = result.notes.rows
    words = sorted(len(row.text.split()) for row in rows)
    return [
        ("notes", str(len(rows))),
        ("faithful at first try", _share(sum(row.faithful_at_first for row in rows), len(rows))),
        ("faithful as delivered", _share(sum(row.faithful for row in rows), len(rows))),
        ("written by the language model", _share(sum(row.source == "llm" for row in rows), len(rows))),
        ("mean coverage of the required facts", format_number(sum(row.coverage for row in rows) / len(rows))),
        ("mean attempts of the model", f"{sum(row.attempts for row in rows) / len(rows):.2f}"),
        ("distinct texts", _share(len({row.text for row in rows}), len(rows))),
        ("words, median (shortest to longest)", f"{words[len(words) // 2]} ({words[0]} to {words[-1]})"),
    ]


def _share(part: int, total: int) -> str:
    return f"{part} of {total} ({part / total:.0%})"


def _note_samples(result: DemoResult) -> list[tuple[Record, NoteRow]]:
    """Held-out records with their notes word for word: one per class, preferring the language model's own text."""
    rows = {row.image_id: row for row in result.notes.rows}
    samples = []
    for name in result.dataset.classes[:SAMPLES]:
        of_class = [record for record in result.split.test if record.label == name]
        record = min(of_class, key=lambda one: rows[one.image_id].source != "llm")
        samples.append((record, rows[record.image_id]))
    return samples


def _data_table(result: DemoResult) -> dict[str, object]:
    """Number of images per class and part of the split, and the numbers of images and groups per part."""
    parts = {"training": result.split.train, "validation": result.split.val, "held out": result.split.test}
    counts = {part: Counter(record.label for record in records) for part, records in parts.items()}
    return {
        "parts": list(parts),
        "rows": [(name, [counts[part][name] for part in parts]) for name in result.dataset.classes],
        "images": [len(records) for records in parts.values()],
        "groups": [len({record.group for record in records}) for records in parts.values()],
    }


def _curves(result: DemoResult) -> list[str]:
    """Charts of training loss, validation cross-entropy and validation balanced accuracy by epoch."""
    chance = result.model.evaluation.classification.chance

    def curves(arms: tuple[Arm, ...], field: str) -> list[Curve]:
        return [
            Curve(arm.name, [getattr(row, field) for row in arm.result.history], arm.result.best_epoch) for arm in arms
        ]

    accuracy = curves(result.arms, "val_balanced_accuracy")
    return [
        chart("Training loss, image + notes", curves(result.arms[:1], "loss")),
        chart("Validation cross-entropy", curves(result.arms, "val_ce")),
        chart("Validation balanced accuracy", accuracy, floor=chance, unit_range=True),
    ]


def _settings(result: DemoResult) -> list[tuple[str, str]]:
    plan, config, language, run = result.plan, result.plan.config, result.language_model, result.model.result
    sha = f", sha256 {language.sha256[:12]}" if language.sha256 else ""
    prompts = ", ".join(sorted({row.prompt_version for row in result.notes.rows}))
    schedule = f"{config.image_size} px, at most {config.epochs} epochs, batch {config.batch_size}, seed {config.seed}"
    stored = result.index.stored
    return [
        ("Data", f"{result.dataset.name}, {result.dataset.licence}, classes {', '.join(result.dataset.classes)}"),
        ("Notes", f"strategy {plan.strategy}, prompt {prompts}, {language.name}{sha}, engine {language.engine}"),
        ("Training", f"preset {config.preset}, {schedule}"),
        ("Best epoch", f"epoch {run.best_epoch} of {len(run.history)}, {run.images_per_s:.0f} images/s"),
        ("Model", f"{result.manifest.name}, id {result.manifest.model_id}"),
        ("Index", f"{stored} items of this run, {result.index_info.items} in total; search via {plan.via}, k {plan.k}"),
        ("Wall time", ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())),
        ("Versions", ", ".join(f"{name} {version(name)}" for name in PACKAGES)),
    ]
