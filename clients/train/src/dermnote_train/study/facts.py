"""Which facts a study's notes may state: those that every data set fills, so that no note tells where it is from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from dermnote_contracts.metadata import walk
from dermnote_train.data.presence import without
from dermnote_train.data.records import LesionDataset, Record

LEAST_FILLED = 0.5
HIDDEN = ("diagnosis", "benign_malignant")
"""What a blinded note is not told."""
ALWAYS = ("diagnosis",)
FINDINGS = "findings"


def common_facts(datasets: Sequence[LesionDataset]) -> tuple[str, ...]:
    """The paths of the facts ("age", "symptoms.itch") that at least half of the records of every data set have."""
    shares = [_filled(dataset) for dataset in datasets]
    return tuple(sorted(path for path in set(shares[0]) if all(one.get(path, 0) >= LEAST_FILLED for one in shares)))


def _filled(dataset: LesionDataset) -> dict[str, float]:
    counts = Counter(path for record in dataset.records for path, _ in walk(record.metadata.given()))
    return {path: count / len(dataset.records) for path, count in counts.items()}


def with_only(dataset: LesionDataset, paths: Sequence[str]) -> LesionDataset:
    """The data set with these facts, its diagnoses and its findings; everything else is taken out."""
    other = [path for path in _filled(dataset) if path not in {*paths, *ALWAYS} and not path.startswith(FINDINGS)]
    return replace(dataset, records=without(dataset.records, other))


@dataclass(frozen=True)
class Stating:
    """What notes may state: the diagnosis (and what it implies), findings, all other facts."""

    diagnosis: bool
    findings: bool
    others: bool


def listed(record: Record, *, stating: Stating) -> str:
    """What a note of a record could state, as a list: "age: 45; anatomical site: back"."""
    given = record.metadata.given()
    taken = {name: value for name, value in given.items() if _may_state(name, stating)}
    return "; ".join(f"{_words(path)}: {_said(value)}" for path, value in walk(taken)) or "nothing recorded"


def _may_state(name: str, stating: Stating) -> bool:
    if name in HIDDEN:
        return stating.diagnosis
    return stating.findings if name == FINDINGS else stating.others


def _words(path: str) -> str:
    return path.rpartition(".")[2].replace("_", " ")


def _said(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def known_facts(record: Record, *, blinded: bool, findings: bool) -> bool:
    """Whether there is anything that a note of a record could state."""
    given = record.metadata.given()
    hidden = set(HIDDEN) if blinded else set()
    return bool(set(given) - hidden - (set() if findings else {FINDINGS}))
