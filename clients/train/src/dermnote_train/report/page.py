"""Renders the templates of this package: model cards, and reports (each a self-contained HTML page)."""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from dermnote_train.data.records import Record
from dermnote_train.evaluation.tables import format_interval, format_number
from dermnote_train.report.images import thumbnail


def render_page(template: str, **values: Any) -> str:
    """Render a template of this package with `values`; HTML templates escape them."""
    environment = Environment(
        loader=PackageLoader("dermnote_train", "report"),
        autoescape=select_autoescape(["html.j2"]),
        keep_trailing_newline=template.endswith(".md.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "interval": format_interval,
        "thumbnail": thumbnail,
        "short_facts": _short_facts,
        "shares": _with_shares,
    }
    return environment.get_template(template).render(**values)


def _short_facts(record: Record) -> str:
    """The main metadata in a few words: "61 · male · back"."""
    metadata = record.metadata
    facts = (metadata.age, metadata.sex, metadata.site)
    return " · ".join(str(value) for value in facts if value is not None) or "no age, sex or site given"


def _with_shares(counts: Sequence[int]) -> list[tuple[int, float]]:
    """Each count with its share of the total."""
    return [(count, count / max(sum(counts), 1)) for count in counts]
