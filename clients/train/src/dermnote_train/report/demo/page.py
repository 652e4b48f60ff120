"""The page itself: the template filled, written whole or not at all."""

from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from jinja2 import DictLoader, Environment, StrictUndefined

from dermnote_train.demo import DemoResult
from dermnote_train.evaluation.tables import subgroup_rows
from dermnote_train.files import atomic_write
from dermnote_train.report.demo import view

TEMPLATES = ("report.html.j2", "style.css", "parts.html.j2")


def write_report(result: DemoResult, path: Path) -> Path:
    """Write the report of a run as one self-contained HTML file; returns its path."""
    html = render(result, made_at=datetime.now(UTC))
    with atomic_write(path) as partial:
        partial.write_text(html, "utf-8")
    return path


def render(result: DemoResult, *, made_at: datetime) -> str:
    """The report as HTML."""
    here = files("dermnote_train.report")
    sources = {name: (here / name).read_text("utf-8") for name in TEMPLATES}
    environment = Environment(
        loader=DictLoader(sources), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        result=result,
        made_at=f"{made_at:%Y-%m-%d %H:%M} UTC",
        tiles=view.tiles(result),
        note_figures=view.note_figures(result),
        samples=view.note_samples(result),
        data=view.data_table(result),
        curves=view.curves(result),
        arms=[(arm, view.classification_bars(arm), view.confusion(arm)) for arm in result.arms],
        subgroups=subgroup_rows(result.model.evaluation),
        retrieval=view.retrieval_bars(result.model.evaluation),
        queries=view.queries(result),
        settings=view.settings(result),
    )
