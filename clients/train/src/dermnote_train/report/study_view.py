"""What the study's page shows, worked out from its figures: values in, values and words out."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dermnote_contracts.notes import ModelInfo
from dermnote_train.evaluation import Interval
from dermnote_train.figures import number
from dermnote_train.report.charts import Gain, forest
from dermnote_train.report.pictures import thumbnail
from dermnote_train.report.view import facts
from dermnote_train.study.arms import ARMS, NOTE_SETS
from dermnote_train.study.frozen import versions
from dermnote_train.study.heads import IMAGE_CANDIDATES, TEXT_CANDIDATES, Candidate
from dermnote_train.study.predictions import CellOutputs
from dermnote_train.study.results import TESTED_WITH, Classified, Compared, InSubgroup, Place, Retrieved, StudyFigures
from dermnote_train.study.runner import StudyState
from dermnote_train.study.samples import Sample

SURE = 0.05
QUERIES, HITS = 6, 4
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


def fidelity(state: StudyState) -> list[tuple[object, ...]]:
    """What the verifier says of every note set of every data set."""
    return [
        (
            dataset,
            name,
            len(one.rows),
            _share(sum(row.faithful_at_first for row in one.rows), len(one.rows)),
            _share(sum(row.faithful for row in one.rows), len(one.rows)),
            _share(sum(row.source == "template" for row in one.rows), len(one.rows)),
            number(float(np.mean([row.coverage for row in one.rows]))) if one.rows else "–",
            len({row.text for row in one.rows}),
            one.without_facts,
            NOTE_SETS[name].on_unfaithful,
        )
        for dataset, sets in state.noted.items()
        for name, one in sets.items()
    ]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "–"


def data_rows(state: StudyState) -> dict[str, Any]:
    """Pictures by class, and groups, of every domain."""
    return {
        "classes": state.data.classes,
        "rows": [
            (
                name,
                state.data.dataset_of[name],
                [Counter(record.label for record in domain.records)[label] for label in state.data.classes],
                len(domain.records),
                len({record.group for record in domain.records}),
            )
            for name, domain in state.data.domains.items()
        ],
    }


def leakage(state: StudyState) -> list[tuple[object, ...]]:
    """Facts whose presence tells the class, and what the notes may state."""
    return [
        (
            name,
            ", ".join(f"{one.path} (V {one.cramers_v:.2f})" for one in found if one.tells) or "none",
            ", ".join(state.data.left_out[name]) or "nothing",
        )
        for name, found in state.data.presences.items()
    ]


def samples(found: Sequence[Sample]) -> list[dict[str, Any]]:
    """Drawn lesions and their notes."""
    return [
        {
            "picture": thumbnail(one.record.image_path),
            "record": one.record,
            "facts": facts(one.record),
            "notes": [(name, row) for name, row in one.notes.items()],
        }
        for one in found
    ]


def found_notes(state: StudyState, cells: Sequence[CellOutputs]) -> list[dict[str, Any]]:
    """Held-out pictures of the first cell that reads blinded notes, with the nearest notes of other lesions."""
    for cell in cells:
        pool = cell.pools.get("home")
        if pool is None or pool.note is None or cell.facts.arm not in ("G-findings-blinded", "G-blinded"):
            continue
        records = {one.image_id: one for one in state.data.domains[cell.facts.route].records}
        texts = state.noted[state.data.dataset_of[cell.facts.route]][ARMS[cell.facts.arm].read].texts
        image, note = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (pool.image, pool.note))
        shown = []
        for row in range(0, len(pool.image_ids), max(1, len(pool.image_ids) // QUERIES))[:QUERIES]:
            query = records[pool.image_ids[row]]
            order = [
                place
                for place in np.argsort(-(note @ image[row]))
                if records[pool.image_ids[place]].group != query.group
            ]
            hits = [records[pool.image_ids[place]] for place in order[:HITS]]
            shown.append(
                {
                    "record": query,
                    "picture": thumbnail(query.image_path),
                    "hits": [
                        (hit, thumbnail(hit.image_path), texts[hit.image_id], hit.label == query.label) for hit in hits
                    ],
                }
            )
        return shown
    return []


def choices(cells: Sequence[CellOutputs]) -> list[tuple[object, ...]]:
    """How often validation data chose each candidate, by grid, arm and input."""
    counts: defaultdict[tuple[str, str, str], Counter[int]] = defaultdict(Counter)
    epochs: defaultdict[tuple[str, str, str], list[int]] = defaultdict(list)
    for cell in cells:
        for by, choice in cell.facts.choices.items():
            counts[cell.facts.grid, cell.facts.arm, by][choice.candidate] += 1
            epochs[cell.facts.grid, cell.facts.arm, by].append(choice.epoch)
    return [
        (
            *key,
            ", ".join(f"{number_}: {count}" for number_, count in sorted(found.items())),
            f"{np.median(epochs[key]):g}",
        )
        for key, found in counts.items()
    ]


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


def settings(state: StudyState, figures: StudyFigures, model: ModelInfo) -> list[tuple[str, str]]:
    """Everything that the figures depend on."""
    plan = state.plan
    sha = f", sha256 {model.sha256[:12]}" if model.sha256 else ""
    prompts = sorted({row.prompt_version for sets in state.noted.values() for one in sets.values() for row in one.rows})
    stated = f"{', '.join(state.data.facts)}, and findings where the arm says so"
    written = f"{model.name}{sha}, {model.engine}; prompts {', '.join(prompts)}; seed {plan.notes_seed}"
    drawn = f"95 %, {plan.resamples} resamples of groups and seeds together; Holm's correction by question and place"
    opened = f"{figures.opened} configurations (arm, input, grid, route, pool) by this study; {len(state.done)} cells"
    rows = [
        ("Mode", plan.mode),
        ("Notes state", stated),
        ("Notes from", written),
        ("Intervals", drawn),
        ("Opened", opened),
        ("Versions", ", ".join(f"{name} {value}" for name, value in versions().items())),
    ]
    if plan.frozen is not None:
        rows += [
            ("Frozen grid", plan.frozen.model_dump_json(exclude={"arms"})),
            ("Candidates, pictures alone", _candidates(IMAGE_CANDIDATES)),
            ("Candidates, with text", _candidates(TEXT_CANDIDATES)),
        ]
    if plan.trials is not None:
        rows.append(("Trials", plan.trials.model_dump_json()))
    if plan.tuned is not None:
        rows.append(("Tuned grid", f"{plan.tuned.seeds} seeds, {plan.tuned.config.model_dump_json()}"))
    return rows


def _candidates(found: Sequence[Candidate]) -> str:
    return "; ".join(
        f"{place}: rate {one.head_lr:g}, decay {one.weight_decay:g}"
        + (f", alignment {one.losses.cosine:g}, fused {one.losses.fused_ce:g}" if found is TEXT_CANDIDATES else "")
        for place, one in enumerate(found)
    )
