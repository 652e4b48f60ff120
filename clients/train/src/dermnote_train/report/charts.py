"""The reports' charts as SVG data URIs. The only module that imports matplotlib."""

import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dermnote_train.evaluation.results import Interval
from dermnote_train.report.images import data_uri

INK, FAINT = "#1f2a30", "#d9dedb"
HUES = ("#0f6b6b", "#b4582a")
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "dermnote",
    "axes.edgecolor": FAINT,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True)
class Curve:
    """One line of a chart: its name, a value per epoch, and the epoch whose weights were kept (from 1)."""

    name: str
    values: Sequence[float]
    best_epoch: int


@dataclass(frozen=True)
class ForestRow:
    """A row of a forest plot: a difference with its interval and whether it is significant after Holm's correction."""

    name: str
    difference: Interval
    significant: bool


def forest(title: str, rows: Sequence[ForestRow], *, unit: str) -> str:
    """A forest plot as an SVG data URI: one row per difference, downwards; significant ones have filled markers."""
    with rc_context(STYLE):
        figure = Figure(figsize=(5.6, 0.9 + 0.24 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for y, row in enumerate(rows):
            value, low, high = astuple(row.difference)
            hue = HUES[0] if value >= 0 else HUES[1]
            axes.plot([low, high], [y, y], color=hue, linewidth=1.6, solid_capstyle="butt")
            face = hue if row.significant else "white"
            axes.plot([value], [y], "o", color=hue, markersize=5.5, markerfacecolor=face)
        axes.axvline(0, color="#8a9499", linewidth=0.9)
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        _style(axes, title, xlabel=unit, grid_axis="x")
        return _as_svg(figure)


def chart(title: str, curves: Sequence[Curve], *, floor: float | None = None, unit_range: bool = False) -> str:
    """Curves over epochs as an SVG data URI. `floor`: a dashed line for chance; `unit_range`: y from 0 to 1."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        axes = figure.subplots()
        for curve, hue in zip(curves, HUES, strict=False):
            _draw(axes, curve, hue)
        if floor is not None:
            axes.axhline(floor, color="#8a9499", linewidth=0.9, linestyle=(0, (4, 3)))
            axes.annotate("chance", (1, floor), xytext=(0, 3), textcoords="offset points", fontsize=8, color="#6a757a")
        _style(axes, title, xlabel="epoch", grid_axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if unit_range:
            axes.set_ylim(0, 1)
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize=8, loc="best")
        return _as_svg(figure)


def _draw(axes: Axes, curve: Curve, hue: str) -> None:
    epochs, best = range(1, len(curve.values) + 1), curve.best_epoch
    axes.plot(epochs, curve.values, color=hue, linewidth=1.8, label=curve.name, marker="o", markersize=2.6)
    axes.plot([best], [curve.values[best - 1]], "o", color=hue, markersize=7, markeredgecolor="white")


def _style(axes: Axes, title: str, *, xlabel: str, grid_axis: Any) -> None:
    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
    axes.set_xlabel(xlabel)
    axes.grid(axis=grid_axis, color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _as_svg(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return data_uri(stream.getvalue(), "image/svg+xml")
