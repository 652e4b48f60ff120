"""Model cards of the tuned grid's models: training data, training notes, and the study's results."""

import json
from pathlib import Path

from dermnote_train.evaluation.results import Interval
from dermnote_train.files import write_text
from dermnote_train.study.analysis.results import INPUT_LABELS, ClassificationResult, RetrievalResult, StudyResults
from dermnote_train.study.arms import ARMS
from dermnote_train.study.cells.outputs import CellFacts
from dermnote_train.study.cells.tuned import TUNED
from dermnote_train.study.runner import RUNS, StudyState

CARD_NAME = "MODEL_CARD.md"


def write_cards(out: Path, state: StudyState, results: StudyResults) -> None:
    """Write MODEL_CARD.md to the run folder of every finished tuned cell; `dermnote export` copies it."""
    for facts in state.cells:
        if facts.grid == TUNED:
            path = out / RUNS / facts.route / facts.arm / f"seed{facts.seed}" / CARD_NAME
            write_text(path, card(facts, state, results))


def card(facts: CellFacts, state: StudyState, results: StudyResults) -> str:
    """The card of one model; its metrics are those of the arm over all seeds."""
    source = state.data.datasets[state.data.dataset_of[facts.route]]
    classification = [one for one in results.classification if _is_of(one, facts)]
    retrieval = [one for one in results.retrieval if _is_of(one, facts) and not one.reads_class]
    assert state.plan.tuned is not None  # noqa: S101 (the cell is in its grid)
    settings = state.plan.tuned.config.model_copy(update={"seed": facts.seed}).model_dump()
    lines = [
        f"# {facts.arm}, trained on {facts.route}",
        "",
        f"An image{' and text' if ARMS[facts.arm].has_text else ''} model of skin lesions, trained by "
        f"`dermnote study`: {ARMS[facts.arm].description}. For research; **not for diagnosis**.",
        "",
        f"- **Data**: {source.name}, {facts.trained_on} training images, licence {source.licence}"
        + ("; the images are drawn by a program (SYNTHETIC)." if source.synthetic else "."),
        f"- **Classes**: {', '.join(facts.classes)}. The model predicts one of these for any image.",
        "- **Notes** are synthetic, written from metadata; none was written by a clinician.",
        f"- **Seed** {facts.seed}; weights of epoch {facts.choices['image'].epoch}, selected by validation loss on "
        "images alone.",
        f"- **Libraries**: {', '.join(f'{name} {value}' for name, value in facts.versions.items())}.",
        "",
        "## Results of the study",
        "",
        f"For this arm over {max((one.seeds for one in classification), default=0)} seeds, on images that were not "
        "used in training; 95 % intervals over patients or lesions and seeds.",
        "",
        "| tested on | input | balanced accuracy | 95 % interval | chance | ECE |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {one.setting.pool} | {INPUT_LABELS[one.input]} | {_value_cells(one.balanced_accuracy)} | "
            f"{one.chance:.3f} | {one.calibration_error:.3f} |"
            for one in classification
        ),
        "",
        *(_retrieval_table(retrieval) if retrieval else ()),
        "## Settings",
        "",
        "```json",
        json.dumps(settings, indent=1),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _is_of(one: ClassificationResult | RetrievalResult, facts: CellFacts) -> bool:
    return (one.setting.grid, one.setting.route, one.arm) == (facts.grid, facts.route, facts.arm)


def _retrieval_table(results: list[RetrievalResult]) -> list[str]:
    return [
        "Retrieval with notes that do not name the class:",
        "",
        "| searched | direction | mAP | 95 % interval | chance | R@10 |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {one.setting.pool} | {one.direction} | {_value_cells(one.mean_average_precision)} | "
            f"{one.chance_map:.3f} | {one.recall_at[10]:.3f} |"
            for one in results
        ),
        "",
    ]


def _value_cells(interval: Interval) -> str:
    """Two table cells: the value and its interval."""
    return f"{interval.value:.3f} | {interval.low:.3f} to {interval.high:.3f}"
