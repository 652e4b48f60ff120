"""The data of a study: reads each folder once, measures findings, and forms domains and splits."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dermnote_train.config import StudyMode
from dermnote_train.data.adapters import dataset_of, matching_images, read_folder
from dermnote_train.data.images import check_decodable, pixels_version
from dermnote_train.data.presence import Presence
from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.data.rows import faults_error
from dermnote_train.data.splits import split_dataset
from dermnote_train.errors import UserError
from dermnote_train.files import sha256_file
from dermnote_train.findings.table import measure_dataset, with_findings, write_findings
from dermnote_train.progress import Report
from dermnote_train.study.facts import common_facts, keep_facts
from dermnote_train.study.plan import Domain, Route, StudyPlan


@dataclass(frozen=True)
class StudyData:
    """Data sets by name, with only the facts that notes may state, and domains by name, as data sets of their own.

    `dataset_of`: domain -> data set; `classes`: those that all domains share; `facts`: paths of the facts that notes
    may state; `left_out`: data set -> the facts that are not stated because their presence reveals the class;
    `presences`: data set -> how often each fact is given, by class; `image_hashes`: image_id -> sha256 of its file,
    followed by its `pixels_version`.
    """

    datasets: Mapping[str, LesionDataset]
    domains: Mapping[str, LesionDataset]
    dataset_of: Mapping[str, str]
    classes: tuple[str, ...]
    facts: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]
    presences: Mapping[str, tuple[Presence, ...]]
    image_hashes: Mapping[str, str]

    def split(self, route: Route, *, seed: int, mode: StudyMode) -> Split:
        """Training, validation and home test part of a route."""
        dataset = self.domains[route.train]
        if mode == "paper":  # split by image: images of one patient may be in two parts
            dataset = replace(dataset, records=tuple(replace(one, group=one.image_id) for one in dataset.records))
        return split_dataset(dataset, seed=seed)


def read_domains(plan: StudyPlan, *, out: Path, findings: bool, progress: Report) -> StudyData:
    """Read every folder once and form the domains. `findings`: add findings, from `out`/findings or newly measured.

    Raises UserError for invalid rows, an image that cannot be decoded, two data sets with the same name, a domain
    without rows, and domains that share fewer than two classes.
    """
    readings = {folder: read_folder(folder) for folder in dict.fromkeys(one.folder for one in plan.domains.values())}
    datasets: dict[str, LesionDataset] = {}
    for folder, reading in readings.items():
        if reading.faults:
            raise faults_error(reading.table, reading.faults)
        if reading.name in datasets:
            raise UserError(f"{folder}: another data set is also named {reading.name}; rename one (columns.toml: name)")
        dataset = dataset_of(reading, classes="paper5", limit=plan.limit, seed=plan.notes_seed)
        check_decodable(dataset.records, progress=progress)
        datasets[reading.name] = _with_findings(dataset, out=out, progress=progress) if findings else dataset
    facts = common_facts(tuple(datasets.values()))
    datasets = _with_unique_ids({name: keep_facts(dataset, facts) for name, dataset in datasets.items()})
    names = {name: readings[domain.folder].name for name, domain in plan.domains.items()}
    domains = _with_common_classes(
        {name: _domain(name, domain, datasets[names[name]]) for name, domain in plan.domains.items()}
    )
    return StudyData(
        datasets=datasets,
        domains=domains,
        dataset_of=names,
        classes=next(iter(domains.values())).classes,
        facts=facts,
        left_out={reading.name: reading.left_out for reading in readings.values()},
        presences={reading.name: reading.presences for reading in readings.values()},
        image_hashes={
            record.image_id: sha256_file(record.image_path) + pixels_version(record.image_path)
            for dataset in datasets.values()
            for record in dataset.records
        },
    )


def _with_unique_ids(datasets: Mapping[str, LesionDataset]) -> dict[str, LesionDataset]:
    """If two data sets share an image id, all ids are prefixed with the name of their data set."""
    counts = Counter(record.image_id for dataset in datasets.values() for record in dataset.records)
    if max(counts.values()) == 1:
        return dict(datasets)
    return {
        name: replace(
            dataset, records=tuple(replace(one, image_id=f"{name}.{one.image_id}") for one in dataset.records)
        )
        for name, dataset in datasets.items()
    }


def _with_findings(dataset: LesionDataset, *, out: Path, progress: Report) -> LesionDataset:
    path = out / "findings" / f"{dataset.name}.csv"
    if not path.exists():
        write_findings(path, measure_dataset(dataset.records, progress=progress))
    return replace(dataset, records=with_findings(dataset.records, path))


def _domain(name: str, domain: Domain, dataset: LesionDataset) -> LesionDataset:
    records: tuple[Record, ...] = dataset.records
    if domain.where:
        matching = matching_images(domain.folder, where=domain.where)
        records = tuple(record for record in records if record.image_id.removeprefix(f"{dataset.name}.") in matching)
    if not records:
        raise UserError(f"domain {name}: no row of {domain.folder} matches its `where`")
    return replace(dataset, name=name, records=records)


def _with_common_classes(domains: Mapping[str, LesionDataset]) -> Mapping[str, LesionDataset]:
    """Every domain with only the classes that all share, since metrics over different classes cannot be compared."""
    present = [{record.label for record in domain.records} for domain in domains.values()]
    first = next(iter(domains.values()))
    classes = tuple(name for name in first.classes if all(name in labels for labels in present))
    if len(classes) < 2:
        raise UserError(f"the domains {', '.join(domains)} share fewer than two classes; there is nothing to compare")
    return {
        name: replace(
            domain, classes=classes, records=tuple(record for record in domain.records if record.label in classes)
        )
        for name, domain in domains.items()
    }
