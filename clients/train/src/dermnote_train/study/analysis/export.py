"""The figures of a study as files: one JSON of everything, and a CSV for each kind."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dermnote_train.files import atomic_write
from dermnote_train.study.analysis.results import StudyFigures

PARTS = {
    "classification": "classified",
    "retrieval": "retrieved",
    "differences": "compared",
    "subgroups": "in_subgroups",
    "trials": "tried",
}


def write_sheets(folder: Path, figures: StudyFigures) -> None:
    """figures.json, classification.csv, retrieval.csv, differences.csv, subgroups.csv and trials.csv in `folder`."""
    with atomic_write(folder / "figures.json") as partial:
        partial.write_text(json.dumps(_plain(asdict(figures)), indent=1) + "\n", "utf-8")
    for name, part in PARTS.items():
        _write_csv(folder / f"{name}.csv", [_flat(asdict(one)) for one in getattr(figures, part)])


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """One row: what lies in a part of a row gets its name in front; counts of a confusion matrix stay JSON."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            found |= _flat(inner, f"{before}{name}." if name != "place" else before)
        elif isinstance(inner, list | tuple):
            found[f"{before}{name}"] = json.dumps(inner)
        else:
            found[f"{before}{name}"] = _number(inner)
    return found


def _number(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else round(value, 5)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    return value
