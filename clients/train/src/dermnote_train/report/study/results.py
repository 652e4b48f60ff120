"""The results sections of the study's report: values in, tables and charts out."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dermnote_train.evaluation.results import Interval
from dermnote_train.evaluation.tables import format_number
from dermnote_train.report.charts import ForestRow, forest
from dermnote_train.study.analysis.results import (
    INPUT_LABELS,
    ClassificationResult,
    Comparison,
    Setting,
    StudyResults,
    SubgroupResult,
)
from dermnote_train.study.arms import ARMS
from dermnote_train.study.cells.outputs import HOME

SIGNIFICANCE = 0.05
CONTROLS = ("random", "random-findings", "shuffled", "shuffled-labels")
FIRST_QUESTIONS = (
    "pictures against pictures alone",
    "picture and blinded note against pictures alone",
    "note against the same facts as a table",
)
UNITS = {"balanced accuracy": "difference in balanced accuracy", "mAP": "difference in mAP"}


@dataclass(frozen=True)
class Answer:
    """One question in one setting: the arm with the largest gain, and which gains and losses are significant."""

    setting: Setting
    question: str
    arm: str
    value: str
    interval: str
    p_value: str
    significant: bool
    others: str


def answers(results: StudyResults) -> list[Answer]:
    """For each question in each setting: the arm with the largest gain, and all significant gains and losses.

    Only arms trained with notes that are not controls can be the best arm, unless a question has none of them.
    """
    by_question: defaultdict[tuple[Setting, str], list[Comparison]] = defaultdict(list)
    for one in results.comparisons:
        if one.arm != "shuffled-labels":  # a check of the method, not an answer
            by_question[one.setting, one.family].append(one)
    return [_answer(setting, question, rows) for (setting, question), rows in sorted(by_question.items(), key=_order)]


def _order(item: tuple[tuple[Setting, str], Any]) -> tuple[str, int, str, str, str]:
    """Sort key: within a grid, the questions of FIRST_QUESTIONS come first, in that order."""
    setting, question = item[0]
    order = FIRST_QUESTIONS.index(question) if question in FIRST_QUESTIONS else len(FIRST_QUESTIONS)
    return (setting.grid, order, question, setting.route, setting.pool)


def _answer(setting: Setting, question: str, rows: Sequence[Comparison]) -> Answer:
    with_notes = [one for one in rows if ARMS[one.arm].notes and one.arm not in CONTROLS]
    best = max(with_notes or rows, key=_gain)
    gains = [one.arm for one in rows if _significant(one) and _gain(one) > 0 and one is not best]
    losses = [one.arm for one in rows if _significant(one) and _gain(one) < 0]
    groups = (("also significant gains", gains), ("significant losses", losses))
    return Answer(
        setting=setting,
        question=question,
        arm=best.arm,
        value=f"{_gain(best):+.3f}",
        interval=_signed_interval(best.difference.interval),
        p_value=format_number(best.adjusted),
        significant=_significant(best) and _gain(best) > 0,
        others="; ".join(f"{label}: {', '.join(names)}" for label, names in groups if names),
    )


def _gain(one: Comparison) -> float:
    return one.difference.interval.value


def _significant(one: Comparison) -> bool:
    return one.adjusted < SIGNIFICANCE


def _signed_interval(interval: Interval) -> str:
    return f"{interval.low:+.3f} to {interval.high:+.3f}"


def settings_sections(results: StudyResults) -> list[dict[str, Any]]:
    """One section per setting: the rows of its tables, forest plots, confusion matrices and subgroups."""

    def of_setting(rows: Iterable[Any], setting: Setting) -> list[Any]:
        return [one for one in rows if one.setting == setting]

    sections = []
    for setting in dict.fromkeys(one.setting for one in results.classification):
        classification = of_setting(results.classification, setting)
        tested = "at home, on its own held-out part" if setting.pool == HOME else f"on {setting.pool}"
        sections.append(
            {
                "setting": setting,
                "title": f"Trained on {setting.route}, tested {tested}",
                "classification": sorted(classification, key=lambda one: list(INPUT_LABELS).index(one.input)),
                "best": {
                    by: max(_accuracy(one) for one in classification if one.input == by)
                    for by in {one.input for one in classification}
                },
                "forests": _forests(of_setting(results.comparisons, setting)),
                "confusions": _confusions(classification),
                "retrieval": sorted(of_setting(results.retrieval, setting), key=lambda one: (one.notes, one.direction)),
                "subgroups": _subgroup_table(of_setting(results.subgroups, setting)),
            }
        )
    return sections


def _accuracy(one: ClassificationResult) -> float:
    return one.balanced_accuracy.value


def _forests(rows: Sequence[Comparison]) -> list[str]:
    families: defaultdict[str, list[Comparison]] = defaultdict(list)
    for one in rows:
        families[one.family].append(one)
    return [
        forest(
            family[0].upper() + family[1:],
            [ForestRow(f"{one.arm} − {one.against}", one.difference.interval, _significant(one)) for one in members],
            unit=UNITS[members[0].measure],
        )
        for family, members in families.items()
    ]


def _confusions(rows: Sequence[ClassificationResult]) -> list[ClassificationResult]:
    """The rows whose matrices are shown: the `image` arm, and the best other arm for each of "image" and "both"."""
    shown = [one for one in rows if one.arm == "image"]
    for by in ("image", "both"):
        own = [one for one in rows if one.input == by and one.arm != "image"]
        shown += [max(own, key=_accuracy)] if own else []
    return shown


def _subgroup_table(rows: Sequence[SubgroupResult]) -> dict[str, Any]:
    """Balanced accuracy on images alone, one row per subgroup and one column per arm."""
    arms = list(dict.fromkeys(one.arm for one in rows))
    by_subgroup: defaultdict[tuple[str, str], dict[str, SubgroupResult]] = defaultdict(dict)
    for one in rows:
        by_subgroup[one.field, one.value][one.arm] = one
    return {"arms": arms, "rows": by_subgroup}
