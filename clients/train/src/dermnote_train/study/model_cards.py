"""Model cards of the tuned grid's models: what each was trained on and with, and what the study found it worth."""

import json
from pathlib import Path

from dermnote_train.evaluation.results import Interval
from dermnote_train.files import atomic_write
from dermnote_train.study.analysis.results import TESTED_WITH, Classified, Retrieved, StudyFigures
from dermnote_train.study.arms import ARMS
from dermnote_train.study.cells.outputs import CellFacts
from dermnote_train.study.runner import RUNS, StudyState

CARD_NAME = "MODEL_CARD.md"


def write_cards(out: Path, state: StudyState, figures: StudyFigures) -> None:
    """MODEL_CARD.md into the run folder of every tuned cell that is done; `dermnote export` takes it along."""
    for facts in state.done:
        if facts.grid == "tuned":
            path = out / RUNS / facts.route / facts.arm / f"seed{facts.seed}" / CARD_NAME
            with atomic_write(path) as partial:
                partial.write_text(card(facts, state, figures), "utf-8")


def card(facts: CellFacts, state: StudyState, figures: StudyFigures) -> str:
    """The card of one model. Figures are those of its arm, over all seeds of the study."""
    source = state.data.datasets[state.data.dataset_of[facts.route]]
    classified = [one for one in figures.classified if _is_of(one, facts)]
    retrieved = [one for one in figures.retrieved if _is_of(one, facts) and not one.reads_class]
    assert state.plan.tuned is not None  # noqa: S101 (the cell is of its grid)
    settings = state.plan.tuned.config.model_copy(update={"seed": facts.seed}).model_dump()
    lines = [
        f"# {facts.arm}, trained on {facts.route}",
        "",
        f"An image{' and text' if ARMS[facts.arm].has_text else ''} model of skin lesions, made by `dermnote study`: "
        f"{ARMS[facts.arm].says}. For research; **not for diagnosis**.",
        "",
        f"- **Data**: {source.name}, {facts.trained_on} training pictures, licence {source.licence}"
        + ("; the pictures are drawn by a program (SYNTHETIC)." if source.synthetic else "."),
        f"- **Classes**: {', '.join(facts.classes)}. It knows no others, and tells one of these for any picture.",
        "- **Notes** are synthetic, written from metadata; none was written by a clinician.",
        f"- **Seed** {facts.seed}; kept epoch {facts.choices['image'].epoch}, by validation loss on pictures alone.",
        f"- **Libraries**: {', '.join(f'{name} {value}' for name, value in facts.versions.items())}.",
        "",
        "## What the study found",
        "",
        f"Of this arm, over {max((one.seeds for one in classified), default=0)} seeds, on pictures that took no part "
        "in training; 95 % intervals over patients or lesions and seeds.",
        "",
        "| tested on | given | balanced accuracy | 95 % interval | chance | ECE |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_classified_row(one) for one in classified),
        "",
        *(_retrieved_table(retrieved) if retrieved else ()),
        "## Settings",
        "",
        "```json",
        json.dumps(settings, indent=1),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _is_of(one: Classified | Retrieved, facts: CellFacts) -> bool:
    return (one.place.grid, one.place.route, one.arm) == (facts.grid, facts.route, facts.arm)


def _classified_row(one: Classified) -> str:
    cells = (
        one.place.pool,
        TESTED_WITH[one.input],
        f"{one.balanced_accuracy.value:.3f}",
        _spanned(one.balanced_accuracy),
        f"{one.chance:.3f}",
        f"{one.calibration_error:.3f}",
    )
    return f"| {' | '.join(cells)} |"


def _retrieved_table(found: list[Retrieved]) -> list[str]:
    rows = [
        f"| {one.place.pool} | {one.direction} | {one.mean_average_precision.value:.3f} | "
        f"{_spanned(one.mean_average_precision)} | {one.chance_map:.3f} | {one.recall_at[10]:.3f} |"
        for one in found
    ]
    head = ["| searched | direction | mAP | 95 % interval | chance | R@10 |", "| --- | --- | --- | --- | --- | --- |"]
    return ["Retrieval with notes that do not name the class:", "", *head, *rows, ""]


def _spanned(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}"
