"""Model cards of the tuned grid's models: training data, training notes, and the study's results."""

import json
from pathlib import Path

from dermnote_train.files import write_text
from dermnote_train.report.page import render_page
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
    assert state.plan.tuned is not None  # noqa: S101 (a tuned cell implies a tuned grid)
    settings = state.plan.tuned.config.model_copy(update={"seed": facts.seed}).model_dump()
    return render_page(
        "model_card.md.j2",
        facts=facts,
        arm=ARMS[facts.arm],
        source=state.data.datasets[state.data.dataset_of[facts.route]],
        classification=[one for one in results.classification if _is_of(one, facts)],
        retrieval=[one for one in results.retrieval if _is_of(one, facts) and not one.reads_class],
        inputs=INPUT_LABELS,
        settings=json.dumps(settings, indent=1),
    )


def _is_of(one: ClassificationResult | RetrievalResult, facts: CellFacts) -> bool:
    return (one.setting.grid, one.setting.route, one.arm) == (facts.grid, facts.route, facts.arm)
