"""What the study's page says of where its figures come from: notes, data, choices, settings. Values in, words out."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from dermnote_contracts.notes import ModelInfo
from dermnote_train.evaluation.tables import number
from dermnote_train.report.demo.view import facts
from dermnote_train.report.images import thumbnail
from dermnote_train.study.analysis.results import StudyFigures
from dermnote_train.study.arms import ARMS, NOTE_SETS
from dermnote_train.study.cells.frozen import versions
from dermnote_train.study.cells.heads import IMAGE_CANDIDATES, TEXT_CANDIDATES, Candidate
from dermnote_train.study.cells.outputs import CellOutputs
from dermnote_train.study.runner import StudyState
from dermnote_train.study.samples import Sample

QUERIES, HITS = 6, 4


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
