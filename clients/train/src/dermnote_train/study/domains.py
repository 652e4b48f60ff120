"""The data of a study: each folder read once, its findings measured, its domains and splits."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dermnote_train.data.adapters import dataset_of, matching_images, read_folder
from dermnote_train.data.images import check_decodable
from dermnote_train.data.presence import Presence
from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.data.rows import faults_error
from dermnote_train.data.splits import split_dataset
from dermnote_train.errors import UserError
from dermnote_train.findings.table import measure_dataset, with_findings, write_findings
from dermnote_train.progress import Report
from dermnote_train.study.facts import common_facts, with_only
from dermnote_train.study.plan import Domain, Mode, Route, StudyPlan


@dataclass(frozen=True)
class StudyData:
    """datasets: by name, with the facts that notes may state; domains: name -> a data set of its records alone.

    `classes` are those that every domain has, in one order; `facts`: the paths that notes may state; `left_out`: by
    data set, what is not stated since its presence tells the class; `presences` likewise; `pictures`: image_id ->
    sha256 of its file.
    """

    datasets: Mapping[str, LesionDataset]
    domains: Mapping[str, LesionDataset]
    dataset_of: Mapping[str, str]
    classes: tuple[str, ...]
    facts: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]
    presences: Mapping[str, tuple[Presence, ...]]
    pictures: Mapping[str, str]

    def split(self, route: Route, *, seed: int, mode: Mode) -> Split:
        """Train, validation and home test part of a route."""
        dataset = self.domains[route.train]
        if mode == "paper":  # by image: pictures of one patient may lie in two parts
            dataset = replace(dataset, records=tuple(replace(one, group=one.image_id) for one in dataset.records))
        return split_dataset(dataset, seed=seed)


def read_domains(plan: StudyPlan, *, out: Path, findings: bool, progress: Report) -> StudyData:
    """Read every folder once and cut the domains out of it. `findings`: measure them, or take those of `out`/findings.

    Raises UserError, naming the folder, for faults, for two data sets of one name, and for domains that share fewer
    than two classes.
    """
    readings = {folder: read_folder(folder) for folder in dict.fromkeys(one.folder for one in plan.domains.values())}
    datasets: dict[str, LesionDataset] = {}
    names: dict[Path, str] = {}
    for folder, reading in readings.items():
        if reading.faults:
            raise faults_error(reading.table, reading.faults)
        if reading.name in datasets:
            raise UserError(f"{folder}: a second data set named {reading.name}; rename one (columns.toml: name)")
        dataset = dataset_of(reading, classes="paper5", limit=plan.limit, seed=plan.notes_seed)
        check_decodable(dataset.records, progress=progress)
        if findings:
            dataset = _measured(dataset, out=out, progress=progress)
        datasets[reading.name], names[folder] = dataset, reading.name
    facts = common_facts(tuple(datasets.values()))
    datasets = _of_own_ids({name: with_only(dataset, facts) for name, dataset in datasets.items()})
    domains = {name: _domain(name, domain, datasets[names[domain.folder]]) for name, domain in plan.domains.items()}
    return StudyData(
        datasets=datasets,
        domains=_of_common_classes(domains),
        dataset_of={name: names[domain.folder] for name, domain in plan.domains.items()},
        classes=next(iter(_of_common_classes(domains).values())).classes,
        facts=facts,
        left_out={reading.name: reading.left_out for reading in readings.values()},
        presences={reading.name: reading.presences for reading in readings.values()},
        pictures={
            record.image_id: hashlib.sha256(record.image_path.read_bytes()).hexdigest()
            for dataset in datasets.values()
            for record in dataset.records
        },
    )


def _of_own_ids(datasets: Mapping[str, LesionDataset]) -> dict[str, LesionDataset]:
    """Images of two data sets that have the same id get their data set's name in front."""
    counts = Counter(record.image_id for dataset in datasets.values() for record in dataset.records)
    if max(counts.values()) == 1:
        return dict(datasets)
    return {
        name: replace(
            dataset, records=tuple(replace(one, image_id=f"{name}.{one.image_id}") for one in dataset.records)
        )
        for name, dataset in datasets.items()
    }


def _measured(dataset: LesionDataset, *, out: Path, progress: Report) -> LesionDataset:
    path = out / "findings" / f"{dataset.name}.csv"
    if not path.exists():
        write_findings(path, measure_dataset(dataset.records, progress=progress))
    return replace(dataset, records=with_findings(dataset.records, path))


def _domain(name: str, domain: Domain, dataset: LesionDataset) -> LesionDataset:
    records: tuple[Record, ...] = dataset.records
    if domain.where:
        wanted = matching_images(domain.folder, where=domain.where)
        records = tuple(record for record in records if record.image_id.removeprefix(f"{dataset.name}.") in wanted)
    if not records:
        raise UserError(f"domain {name}: no row of {domain.folder} is as its `where` says")
    return replace(dataset, name=name, records=records)


def _of_common_classes(domains: Mapping[str, LesionDataset]) -> Mapping[str, LesionDataset]:
    """Every domain with the classes that all have; figures of different classes could not be compared."""
    first, *others = domains.values()
    held = [{record.label for record in domain.records} for domain in (first, *others)]
    classes = tuple(name for name in first.classes if all(name in one for one in held))
    if len(classes) < 2:
        raise UserError(f"the domains {', '.join(domains)} share fewer than two classes; there is nothing to compare")
    return {
        name: replace(
            domain, classes=classes, records=tuple(record for record in domain.records if record.label in classes)
        )
        for name, domain in domains.items()
    }
