"""Blinded notes: do they tell more of the diagnosis than the metadata that they were made from?

A bag-of-words classifier on blinded notes against the same kind of classifier on the metadata as a table: logistic
regression, 5-fold cross-validation grouped by lesion or patient, balanced accuracy, 95 % interval of the difference by
bootstrap over groups. Needs the local stack; `--table` names a metadata table (drawn lesions without it).
"""

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from dermnote_contracts.metadata import walk
from dermnote_contracts.notes import ALL_TOPICS, NoteOptions, NoteRequest
from dermnote_train.data.adapters import read_metadata
from dermnote_train.data.draw import draw_dataset
from dermnote_train.data.tables import read_table
from dermnote_train.remote.notegen import NoteService
from dermnote_train.settings import Settings
from lab.fidelity import write

GROUP_COLUMNS = ("patient_id", "lesion_id", "group")
RESAMPLES = 2000
AGE_BAND_YEARS = 5
WORDS = r"[^\s.,;:()]+"
HIDDEN = frozenset(("diagnosis", "benign_malignant"))
BLINDED = ALL_TOPICS - {"diagnosis"}


def as_table(request: NoteRequest) -> dict[str, Any]:
    """The facts that the note was made from, as features: every value a column, age also in bands of five years."""
    facts = {name: value for name, value in request.metadata.given().items() if name not in HIDDEN}
    features: dict[str, Any] = {path: str(value) for path, value in walk(facts)}
    if "age" in facts:
        features |= {"age": facts["age"] / 100, f"age band {facts['age'] // AGE_BAND_YEARS}": 1}
    return features


def predicted(model: Pipeline, inputs: Sequence[Any], labels: NDArray[Any], groups: Sequence[str]) -> NDArray[Any]:
    """Each case's label as predicted by a model that never saw its group."""
    folds = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=0)
    return np.asarray(cross_val_predict(model, list(inputs), labels, groups=groups, cv=folds))


def classifier() -> LogisticRegression:
    """The same classifier on both sides."""
    return LogisticRegression(max_iter=5000, class_weight="balanced")


def difference_interval(
    labels: NDArray[Any], notes: NDArray[Any], table: NDArray[Any], groups: Sequence[str]
) -> tuple[float, float, float]:
    """(difference, low, high): balanced accuracy of notes less that of the table, 95 % bootstrap over groups."""
    random_ = np.random.default_rng(0)
    by_group: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        by_group.setdefault(group, []).append(index)
    members = list(by_group.values())
    found = []
    for _ in range(RESAMPLES):
        drawn = random_.integers(len(members), size=len(members))
        rows = np.concatenate([members[number] for number in drawn])
        found.append(_score(labels[rows], notes[rows]) - _score(labels[rows], table[rows]))
    low, high = np.percentile(found, [2.5, 97.5])
    return _score(labels, notes) - _score(labels, table), float(low), float(high)


def _score(labels: NDArray[Any], guesses: NDArray[Any]) -> float:
    """Balanced accuracy over the classes that are there."""
    kept = np.isin(guesses, np.unique(labels))
    return float(balanced_accuracy_score(labels, np.where(kept, guesses, labels[0])))


def cases(path: Path, *, count: int, seed: int) -> list[tuple[NoteRequest, str]]:
    """Random rows that have a fact beside the diagnosis, as blinded requests with their groups."""
    rows, cells = read_metadata(path), read_table(path).rows
    column = next(name for name in GROUP_COLUMNS if name in cells[0].cells)
    usable = [index for index, row in enumerate(rows) if row.given().keys() - HIDDEN]
    chosen = random.Random(seed).sample(usable, min(count, len(usable)))
    return [
        (
            NoteRequest(metadata=rows[index], include=BLINDED, options=NoteOptions(seed=index)),
            cells[index].cells[column],
        )
        for index in chosen
    ]


def main() -> None:
    """Write the notes, train both classifiers, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--notes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("lab/results/blinded.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = arguments.table or draw_dataset(Path(folder) / "drawn", count=arguments.notes) / "metadata.csv"
        name = arguments.table.stem if arguments.table else "drawn lesions"
        chosen = cases(table, count=arguments.notes, seed=arguments.seed)
    requests, groups = [request for request, _ in chosen], [group for _, group in chosen]
    with NoteService(Settings().notegen_url) as service:
        service.require_ready()
        written, _ = write(service, requests)
    labels = np.array([str(one.request.metadata.diagnosis) for one in written])
    words = make_pipeline(CountVectorizer(ngram_range=(1, 2), token_pattern=WORDS), classifier())
    columns = make_pipeline(DictVectorizer(), MaxAbsScaler(), classifier())
    by_note = predicted(words, [one.note.text for one in written], labels, groups)
    by_table = predicted(columns, [as_table(one.request) for one in written], labels, groups)
    difference, low, high = difference_interval(labels, by_note, by_table, groups)
    report = {
        "table": name,
        "notes": len(written),
        "faithful": sum(one.note.verification.faithful for one in written) / len(written),
        "from_model": sum(one.note.provenance.source == "llm" for one in written) / len(written),
        "balanced_accuracy_notes": _score(labels, by_note),
        "balanced_accuracy_table": _score(labels, by_table),
        "difference": difference,
        "interval_95": [low, high],
        "tells_no_more": low <= 0,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
