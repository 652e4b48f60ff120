"""The study's report: its page, and the sections on notes, data, selection and settings."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from dermnote_contracts.notes import ModelInfo
from dermnote_train.data.records import Record
from dermnote_train.evaluation.tables import format_number
from dermnote_train.files import write_text
from dermnote_train.report.page import render_page
from dermnote_train.report.study.results import answers, settings_sections
from dermnote_train.study.analysis.results import INPUT_LABELS, StudyResults
from dermnote_train.study.arms import ARMS, NOTE_SETS
from dermnote_train.study.cells.heads import IMAGE_CANDIDATES, TEXT_CANDIDATES, Candidate
from dermnote_train.study.cells.outputs import HOME, CellOutputs, Floats32, versions
from dermnote_train.study.runner import StudyState
from dermnote_train.study.samples import Sample

QUERIES, HITS = 6, 4


def write_study_report(
    path: Path,
    state: StudyState,
    results: StudyResults,
    *,
    cells: Sequence[CellOutputs],
    samples: Sequence[Sample],
    model: ModelInfo,
    public: bool,
) -> Path:
    """Write the report as one self-contained HTML file; returns its path.

    `public`: leave out all images, metadata rows and notes of the data sets.
    """
    html = render_page(
        "study.html.j2",
        state=state,
        results=results,
        inputs=INPUT_LABELS,
        created_at=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        arms={name: ARMS[name].description for name in state.plan.arms()},
        answers=answers(results),
        sections=settings_sections(results),
        fidelity=_fidelity(state),
        data=_data_rows(state),
        leakage=_leakage(state),
        samples=samples,
        queries=[] if public else _queries(state, cells),
        run_settings=_run_settings(state, results, model),
        choices=_choices(cells),
        public=public,
    )
    write_text(path, html)
    return path


def _fidelity(state: StudyState) -> list[tuple[object, ...]]:
    """The verifier's results for every note set of every data set."""
    return [
        (
            dataset,
            name,
            len(one.rows),
            _share(sum(row.faithful_at_first for row in one.rows), len(one.rows)),
            _share(sum(row.faithful for row in one.rows), len(one.rows)),
            _share(sum(row.source == "template" for row in one.rows), len(one.rows)),
            format_number(float(np.mean([row.coverage for row in one.rows]))) if one.rows else "–",
            len({row.text for row in one.rows}),
            one.without_facts,
            NOTE_SETS[name].on_unfaithful,
        )
        for dataset, sets in state.notes.items()
        for name, one in sets.items()
    ]


def _share(part: int, total: int) -> str:
    return f"{part / total:.1%}" if total else "–"


def _data_rows(state: StudyState) -> dict[str, Any]:
    """For every domain: the number of images of each class, the total number of images, and the number of groups."""
    rows = []
    for name, domain in state.data.domains.items():
        counts = Counter(record.label for record in domain.records)
        groups = len({record.group for record in domain.records})
        by_class = [counts[label] for label in state.data.classes]
        rows.append((name, state.data.dataset_of[name], by_class, len(domain.records), groups))
    return {"classes": state.data.classes, "rows": rows}


def _leakage(state: StudyState) -> list[tuple[object, ...]]:
    """For every data set: the facts whose presence reveals the class, and the facts that notes leave out."""
    return [
        (
            name,
            ", ".join(f"{one.path} (V {one.cramers_v:.2f})" for one in presences if one.reveals_class) or "none",
            ", ".join(state.data.left_out[name]) or "nothing",
        )
        for name, presences in state.data.presences.items()
    ]


def _queries(state: StudyState, cells: Sequence[CellOutputs]) -> list[tuple[Record, list[tuple[Record, str]]]]:
    """Held-out images with the nearest notes of other groups, from the first cell trained with blinded notes."""
    for cell in cells:
        pool = cell.pools.get(HOME)
        if pool is not None and pool.note is not None and cell.facts.arm in ("G-findings-blinded", "G-blinded"):
            return _nearest_notes(state, cell, pool.image, pool.note)
    return []


def _nearest_notes(
    state: StudyState, cell: CellOutputs, image: Floats32, note: Floats32
) -> list[tuple[Record, list[tuple[Record, str]]]]:
    by_id = {one.image_id: one for one in state.data.domains[cell.facts.route].records}
    records = [by_id[image_id] for image_id in cell.pools[HOME].image_ids]
    texts = state.notes[state.data.dataset_of[cell.facts.route]][ARMS[cell.facts.arm].test_notes].texts
    image, note = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, note))
    queries = []
    for row in range(0, len(records), max(1, len(records) // QUERIES))[:QUERIES]:
        query = records[row]
        ranked = [records[item] for item in np.argsort(-(note @ image[row])) if records[item].group != query.group]
        queries.append((query, [(hit, texts[hit.image_id]) for hit in ranked[:HITS]]))
    return queries


def _choices(cells: Sequence[CellOutputs]) -> list[tuple[object, ...]]:
    """By grid, arm and criterion: how often each candidate was selected, and the median of the selected epochs."""
    selected: defaultdict[tuple[str, str, str], list[tuple[int, int]]] = defaultdict(list)
    for cell in cells:
        for by, choice in cell.facts.choices.items():
            selected[cell.facts.grid, cell.facts.arm, by].append((choice.candidate, choice.epoch))
    return [
        (
            *key,
            ", ".join(f"{index}: {count}" for index, count in sorted(Counter(one for one, _ in pairs).items())),
            f"{np.median([epoch for _, epoch in pairs]):g}",
        )
        for key, pairs in selected.items()
    ]


def _run_settings(state: StudyState, results: StudyResults, model: ModelInfo) -> list[tuple[str, str]]:
    """Everything that the results depend on."""
    plan = state.plan
    sha = f", sha256 {model.sha256[:12]}" if model.sha256 else ""
    prompts = sorted({row.prompt_version for sets in state.notes.values() for one in sets.values() for row in one.rows})
    opened = f"{results.opened} configurations (arm, input, grid, route, pool) in this study; {len(state.cells)} cells"
    rows = [
        ("Mode", plan.mode),
        ("Facts in notes", f"{', '.join(state.data.facts)}, and findings in the arms that have them"),
        (
            "Language model",
            f"{model.name}{sha}, {model.engine}; prompts {', '.join(prompts)}; seed {plan.notes_seed}",
        ),
        (
            "Intervals",
            f"95 %, {plan.resamples} resamples of groups and seeds; Holm's correction per question and setting",
        ),
        ("Evaluated", opened),
        ("Versions", ", ".join(f"{name} {value}" for name, value in versions().items())),
    ]
    if plan.frozen is not None:
        rows += [
            ("Frozen grid", plan.frozen.model_dump_json(exclude={"arms"})),
            ("Candidates, images alone", _candidates(IMAGE_CANDIDATES)),
            ("Candidates, with text", _candidates(TEXT_CANDIDATES)),
        ]
    if plan.ablations is not None:
        rows.append(("Ablations", plan.ablations.model_dump_json()))
    if plan.tuned is not None:
        rows.append(("Tuned grid", f"{plan.tuned.seeds} seeds, {plan.tuned.config.model_dump_json()}"))
    return rows


def _candidates(candidates: Sequence[Candidate]) -> str:
    return "; ".join(
        f"{index}: learning rate {one.head_lr:g}, weight decay {one.weight_decay:g}"
        + (f", alignment {one.losses.cosine:g}, fused {one.losses.fused_ce:g}" if candidates is TEXT_CANDIDATES else "")
        for index, one in enumerate(candidates)
    )
