"""What the study's page shows, worked out from its figures: values in, values and words out."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dermnote_train.evaluation.results import Interval
from dermnote_train.evaluation.tables import number
from dermnote_train.report.charts import Gain, forest
from dermnote_train.study.analysis.results import (
    TESTED_WITH,
    Classified,
    Compared,
    InSubgroup,
    Place,
    Retrieved,
    StudyFigures,
)
from dermnote_train.study.arms import ARMS
from dermnote_train.study.runner import StudyState

SURE = 0.05
CONTROLS = ("random", "random-findings", "shuffled", "shuffled-labels")
FIRST_ASKED = (
    "pictures against pictures alone",
    "picture and blinded note against pictures alone",
    "note against the same facts as a table",
)
UNITS = {"balanced accuracy": "difference in balanced accuracy", "mAP": "difference in mAP"}


@dataclass(frozen=True)
class Answer:
    """One question at one place: the arm that gained most, and what of it is sure."""

    place: Place
    question: str
    arm: str
    value: str
    interval: str
    p_value: str
    sure: bool
    others: str


def answers(figures: StudyFigures) -> list[Answer]:
    """Of each question at each place: the best arm of notes, and which others gain or lose for sure."""
    asked: defaultdict[tuple[Place, str], list[Compared]] = defaultdict(list)
    for one in figures.compared:
        if one.arm != "shuffled-labels":  # a check of the method, no answer
            asked[one.place, one.family].append(one)
    return [_answer(place, question, rows) for (place, question), rows in sorted(asked.items(), key=_by_question)]


def _by_question(item: tuple[tuple[Place, str], Any]) -> tuple[str, int, str, str, str]:
    """The paper's question first, then what helps at test time, then the rest."""
    place, question = item[0]
    order = next((row for row, known in enumerate(FIRST_ASKED) if question == known), len(FIRST_ASKED))
    return (place.grid, order, question, place.route, place.pool)


def _answer(place: Place, question: str, rows: Sequence[Compared]) -> Answer:
    with_notes = [one for one in rows if ARMS[one.arm].notes and one.arm not in CONTROLS]
    best = max(with_notes or rows, key=lambda one: one.difference.interval.value)
    gains = [one.arm for one in rows if _sure(one) and one.difference.interval.value > 0 and one is not best]
    losses = [one.arm for one in rows if _sure(one) and one.difference.interval.value < 0]
    said = [f"{what} for sure: {', '.join(names)}" for what, names in (("also gain", gains), ("lose", losses)) if names]
    return Answer(
        place=place,
        question=question,
        arm=best.arm,
        value=_signed(best.difference.interval.value),
        interval=_spanned(best.difference.interval),
        p_value=number(best.adjusted),
        sure=_sure(best) and best.difference.interval.value > 0,
        others="; ".join(said),
    )


def _sure(one: Compared) -> bool:
    return one.adjusted < SURE


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _spanned(interval: Interval) -> str:
    return f"{interval.low:+.3f} to {interval.high:+.3f}"


def places(figures: StudyFigures) -> list[dict[str, Any]]:
    """One section a place: tables, forest plots, confusion matrices, retrieval and subgroups."""
    return [
        {
            "place": place,
            "title": f"Trained on {place.route}, tested {_tested(place)}",
            "classified": _classified_table([one for one in figures.classified if one.place == place]),
            "forests": _forests([one for one in figures.compared if one.place == place]),
            "confusions": _confusions([one for one in figures.classified if one.place == place]),
            "retrieved": _retrieved_table([one for one in figures.retrieved if one.place == place]),
            "subgroups": _subgroup_table([one for one in figures.in_subgroups if one.place == place]),
        }
        for place in dict.fromkeys(one.place for one in figures.classified)
    ]


def _tested(place: Place) -> str:
    return "at home, on its own held-out part" if place.pool == "home" else f"on {place.pool}"


def _classified_table(rows: Sequence[Classified]) -> list[dict[str, Any]]:
    best = {by: max(one.balanced_accuracy.value for one in rows if one.input == by) for by in {o.input for o in rows}}
    return [
        {
            "arm": one.arm,
            "input": TESTED_WITH[one.input],
            "balanced": number(one.balanced_accuracy.value),
            "interval": f"{number(one.balanced_accuracy.low)} – {number(one.balanced_accuracy.high)}",
            "best": one.balanced_accuracy.value == best[one.input],
            "others": [
                number(value)
                for value in (
                    one.f1_macro,
                    one.f1_micro,
                    one.f1_weighted,
                    one.kappa_linear,
                    one.auroc_macro,
                    one.calibration_error,
                )
            ],
        }
        for one in sorted(rows, key=lambda one: list(TESTED_WITH).index(one.input))
    ]


def _forests(rows: Sequence[Compared]) -> list[str]:
    families: defaultdict[str, list[Compared]] = defaultdict(list)
    for one in rows:
        families[one.family].append(one)
    return [
        forest(
            family[0].upper() + family[1:],
            [
                Gain(
                    f"{one.arm} − {one.against}",
                    one.difference.interval.value,
                    one.difference.interval.low,
                    one.difference.interval.high,
                    _sure(one),
                )
                for one in members
            ],
            unit=UNITS[members[0].measure],
        )
        for family, members in families.items()
    ]


def _confusions(rows: Sequence[Classified]) -> list[dict[str, Any]]:
    """Of pictures alone, and of the best arm by pictures and by picture and note."""
    named = [one for one in rows if one.arm == "image"]
    for by in ("image", "both"):
        own = [one for one in rows if one.input == by and one.arm != "image"]
        named += [max(own, key=lambda one: one.balanced_accuracy.value)] if own else []
    return [
        {
            "title": f"{one.arm}, {TESTED_WITH[one.input]}",
            "rows": [[(count, count / max(sum(row), 1)) for count in row] for row in one.confusion],
        }
        for one in named
    ]


def _retrieved_table(rows: Sequence[Retrieved]) -> list[dict[str, Any]]:
    return [
        {
            "arm": one.arm,
            "direction": one.direction,
            "notes": "own, which name the class" if one.reads_class else one.notes,
            "reads_class": one.reads_class,
            "map": number(one.mean_average_precision.value),
            "interval": f"{number(one.mean_average_precision.low)} – {number(one.mean_average_precision.high)}",
            "chance": number(one.chance_map),
            "classless": number(one.classless_map),
            "p10": number(one.precision_at[10]),
            "r10": number(one.recall_at[10]),
            "r10_chance": number(one.chance_recall_at[10]),
            "rank": f"{one.median_rank:g} of {one.pool_size}",
        }
        for one in sorted(rows, key=lambda one: (one.notes, one.direction))
    ]


def _subgroup_table(rows: Sequence[InSubgroup]) -> dict[str, Any]:
    """Balanced accuracy on pictures alone, a row a subgroup and a column an arm."""
    arms = list(dict.fromkeys(one.arm for one in rows))
    found: dict[tuple[str, str], dict[str, InSubgroup]] = defaultdict(dict)
    for one in rows:
        found[one.field, one.value][one.arm] = one
    return {
        "arms": arms,
        "rows": [
            (
                field,
                value,
                next(iter(by.values())),
                [number(by[arm].balanced_accuracy) if arm in by else "" for arm in arms],
            )
            for (field, value), by in found.items()
        ],
    }


def trials(state: StudyState, figures: StudyFigures) -> list[dict[str, Any]]:
    """What was tried on home validation data: what was changed, and each arm with it beside the same arm without."""
    changes = state.plan.trials.changes if state.plan.trials else {}
    return [
        {
            "trial": one.trial,
            "change": ", ".join(f"{setting}: {value}" for setting, value in changes[one.trial].items()),
            "route": one.route,
            "arm": one.arm,
            "input": TESTED_WITH[one.input],
            "seeds": one.seeds,
            "balanced": number(one.balanced_accuracy),
            "difference": _signed(one.difference.interval.value),
            "interval": _spanned(one.difference.interval),
            "apart": one.difference.interval.low > 0 or one.difference.interval.high < 0,
        }
        for one in figures.tried
    ]
