"""The drawn data set: images, plausible metadata and patients, labelled SYNTHETIC everywhere."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dermnote_train.data.labels import DIAGNOSIS_OF, PAPER5
from dermnote_train.data.lesions import draw_lesion
from dermnote_train.errors import UserError
from dermnote_train.files import atomic_folder
from dermnote_train.progress import Report, Step, silent

NOTICE = "SYNTHETIC.txt"
TABLE = "metadata.csv"
IMAGES = "images"
COLUMNS = ("image", "patient_id", "lesion_id", "diagnosis", "age", "sex", "site", "itch", "grew", "bleed", "synthetic")
LIMBS = ("shoulder", "arm", "forearm", "thigh", "leg", "foot")
SECOND_LESION = 0.18
MISSING = {"age": 0.06, "sex": 0.05, "site": 0.08}
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Population:
    """Patients of a class: age in years (mean, deviation), share of men, weights of sites, shares of symptoms."""

    age: tuple[float, float]
    men: float
    sites: dict[str, float]
    symptoms: tuple[float, float, float]  # itch, grew, bleed


POPULATIONS = {
    "BEK": Population((66, 12), 0.52, {"back": 4, "chest": 2, "face": 2, "abdomen": 2, "neck": 1}, (0.45, 0.35, 0.08)),
    "NEV": Population(
        (36, 15), 0.47, {"back": 4, "chest": 2, "abdomen": 2, "neck": 1, "buttocks": 1}, (0.12, 0.15, 0.03)
    ),
    "ACK": Population((71, 9), 0.64, {"face": 4, "scalp": 2, "hand": 3, "forearm": 3, "ear": 1}, (0.50, 0.25, 0.07)),
    "BCC": Population((69, 12), 0.57, {"face": 4, "nose": 3, "neck": 1, "back": 2, "scalp": 1}, (0.35, 0.60, 0.40)),
    "MEL": Population((61, 15), 0.56, {"back": 4, "chest": 1, "face": 1, "abdomen": 1, "neck": 1}, (0.30, 0.65, 0.25)),
}


def draw_dataset(folder: Path, *, count: int = 160, seed: int = 0, progress: Report = silent) -> Path:
    """Draw `count` lesions, balanced over the classes, into `folder`; the same seed gives the same bytes.

    A data set drawn with the same count and seed by the same version of this code (SYNTHETIC.txt names all three) is
    reused, any other drawn data set is replaced. Raises UserError if the folder contains anything else.
    """
    notice = _notice(count, seed)
    if folder.exists():
        if (folder / NOTICE).is_file() and (folder / NOTICE).read_text("utf-8") == notice:
            return folder
        _check_replaceable(folder)
    with atomic_folder(folder) as new:
        (new / IMAGES).mkdir()
        rows = _rows(count, seed=seed)
        for done, row in enumerate(rows, 1):
            _draw_image(new / IMAGES / row["image"], row, rng=np.random.default_rng([seed, 1, done]))
            progress(Step("draw lesions", done, count))
        _write_table(new / TABLE, rows)
        (new / NOTICE).write_text(notice, "utf-8")
    return folder


def _notice(count: int, seed: int) -> str:
    """Content of SYNTHETIC.txt, which identifies the data set: do not reword it."""
    return (
        "SYNTHETIC: every picture here is drawn by a program and every patient is made up.\n"
        "For trying software only; nothing about skin or disease can be learned from it. Free of rights (CC0-1.0).\n"
        f"Made by: dermnote datasets draw --count {count} --seed {seed} (drawing 1)\n"
    )


def _check_replaceable(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder}: is a file; give a new folder")
    names = {path.name for path in folder.iterdir()}
    if names and NOTICE not in names:
        raise UserError(f"{folder}: not empty and not a drawn data set; give a new folder")
    others = sorted(names - {NOTICE, TABLE, IMAGES})
    if others:
        raise UserError(f"{folder}: a drawn data set that also contains {', '.join(others[:4])}; give a new folder")


def _draw_image(path: Path, row: dict[str, str], *, rng: np.random.Generator) -> None:
    label = next(code for code in PAPER5 if DIAGNOSIS_OF[code] == row["diagnosis"])
    pixels = (draw_lesion(label, rng=rng) * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(path, format="JPEG", quality=JPEG_QUALITY, comment=b"SYNTHETIC: drawn by a program")


def _write_table(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _rows(count: int, *, seed: int) -> list[dict[str, str]]:
    """One row per image; some patients have two lesions, with the same age and sex."""
    rng = np.random.default_rng([seed, 0])
    labels = rng.permutation([PAPER5[i % len(PAPER5)] for i in range(count)])
    rows: list[dict[str, str]] = []
    patient = 0
    for number, label in enumerate(map(str, labels), 1):
        row = _row(number, label, rng=rng)
        alone = bool(rows) and [r["patient_id"] for r in rows].count(rows[-1]["patient_id"]) == 1
        if alone and rng.random() < SECOND_LESION:
            row |= {name: rows[-1][name] for name in ("patient_id", "age", "sex")}
        else:
            patient += 1
            row["patient_id"] = f"SYNTHETIC_P{patient:04d}"
        rows.append(row)
    return rows


def _row(number: int, label: str, *, rng: np.random.Generator) -> dict[str, str]:
    people = POPULATIONS[label]
    sites = people.sites | dict.fromkeys(LIMBS, 0.4)
    weights = np.array(list(sites.values())) / sum(sites.values())
    facts = {
        "age": str(int(np.clip(rng.normal(*people.age), 4, 96))),
        "sex": "male" if rng.random() < people.men else "female",
        "site": str(rng.choice(list(sites), p=weights)),
    }
    facts = {name: "" if rng.random() < MISSING[name] else value for name, value in facts.items()}
    symptoms = {
        name: "unknown" if rng.random() < 0.1 else ("yes" if rng.random() < share else "no")
        for name, share in zip(("itch", "grew", "bleed"), people.symptoms, strict=True)
    }
    identity = {"image": f"SYNTHETIC_{number:04d}.jpg", "lesion_id": f"SYNTHETIC_L{number:04d}", "synthetic": "true"}
    return identity | {"diagnosis": DIAGNOSIS_OF[label]} | facts | symptoms
