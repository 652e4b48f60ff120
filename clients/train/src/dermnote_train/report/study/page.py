"""The study's page: the template filled, written whole or not at all."""

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined

from dermnote_contracts.notes import ModelInfo
from dermnote_train.files import atomic_write
from dermnote_train.report.study import background, results
from dermnote_train.study.analysis.results import StudyFigures
from dermnote_train.study.arms import ARMS
from dermnote_train.study.cells.outputs import CellOutputs
from dermnote_train.study.runner import StudyState
from dermnote_train.study.samples import Sample

TEMPLATES = ("study.html.j2", "style.css", "parts.html.j2")


def write_study_report(
    path: Path,
    state: StudyState,
    figures: StudyFigures,
    *,
    cells: Sequence[CellOutputs],
    samples: Sequence[Sample],
    model: ModelInfo,
    public: bool,
) -> Path:
    """Write the report as one self-contained HTML file; returns its path. `public`: with nothing of the data itself."""
    here = files("dermnote_train.report")
    sources = {name: (here / name).read_text("utf-8") for name in TEMPLATES}
    environment = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.get_template("study.html.j2").render(
        state=state,
        figures=figures,
        made_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        arms={name: ARMS[name].says for name in state.plan.arms()},
        answers=results.answers(figures),
        places=results.places(figures),
        fidelity=background.fidelity(state),
        data=background.data_rows(state),
        leakage=background.leakage(state),
        samples=background.samples(samples),
        found=[] if public else background.found_notes(state, cells),
        settings=background.settings(state, figures, model),
        choices=background.choices(cells),
        trials=results.trials(state, figures),
        public=public,
    )
    with atomic_write(path) as partial:
        partial.write_text(html, "utf-8")
    return path
