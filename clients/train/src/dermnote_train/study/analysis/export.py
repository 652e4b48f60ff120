"""Writes the results of a study: one JSON file with all of them, and one CSV file per kind of result."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dermnote_train.evaluation.results import plain_json
from dermnote_train.files import write_csv, write_text
from dermnote_train.study.analysis.results import StudyResults

CSV_FIELDS = {
    "classification": "classification",
    "retrieval": "retrieval",
    "differences": "comparisons",
    "subgroups": "subgroups",
    "trials": "ablations",
}
"""CSV file -> field of StudyResults."""
FILE_KEYS = {
    "classification": "classified",
    "retrieval": "retrieved",
    "comparisons": "compared",
    "subgroups": "in_subgroups",
    "ablations": "tried",
    "setting": "place",
    "ablation": "trial",
}
"""Field -> key in the files, if the two differ: scripts that read files of version 0.1 depend on these keys."""


def write_results(folder: Path, results: StudyResults) -> None:
    """Write figures.json, classification.csv, retrieval.csv, differences.csv, subgroups.csv and trials.csv."""
    content = _with_file_keys(plain_json(asdict(results), digits=6))
    write_text(folder / "figures.json", json.dumps(content, indent=1) + "\n")
    for name, field in CSV_FIELDS.items():
        rows = [_flat(asdict(row)) for row in getattr(results, field)]
        write_csv(folder / f"{name}.csv", list(rows[0]) if rows else [], [row.values() for row in rows])


def _with_file_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {FILE_KEYS.get(name, name): _with_file_keys(inner) for name, inner in value.items()}
    return [_with_file_keys(inner) for inner in value] if isinstance(value, list) else value


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One CSV row: the outer field's name prefixes nested fields, except those of `setting`; lists are JSON."""
    row: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            row |= _flat(inner, prefix if name == "setting" else f"{prefix}{name}.")
        elif isinstance(inner, list | tuple):
            row[f"{prefix}{name}"] = json.dumps(inner)
        else:
            number = plain_json(inner, digits=5)
            row[f"{prefix}{FILE_KEYS.get(name, name)}"] = "" if number is None else number
    return row
