"""Benchmarks `dermnote_train.training.train` against a plain training loop like that of the paper's authors.

At every step, the plain loop decodes and resizes the images of its batch, and runs the frozen text tower on padded
notes. Images, notes, model, losses, batch size, epochs and validation are the same for both. Each measurement runs in
its own process; the arms alternate.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from dermnote_train.config import TrainConfig
from dermnote_train.data.adapters import load_dataset
from dermnote_train.data.draw import draw_dataset
from dermnote_train.data.records import LesionDataset, Record, Split
from dermnote_train.data.splits import split_dataset
from dermnote_train.models import checkpoint, images
from dermnote_train.progress import Step
from dermnote_train.training.augment import augmentation
from dermnote_train.training.losses import image_text_loss
from dermnote_train.training.train import train

RESULTS = Path(__file__).with_name("results") / "train.json"
ARMS = ("dermnote", "plain", "plain, 2 loaders")


def notes_of(dataset: LesionDataset) -> dict[str, str]:
    """A note as long as those of strategy G (about 45 words) for every record."""
    return {
        record.image_id: (
            f"A {record.metadata.age or 50}-year-old patient was seen because of a skin lesion on the "
            f"{record.metadata.site or 'back'}. The patient describes itching and elevation and denies pain. For "
            f"{record.metadata.diagnosis}, a raised border, large ovoid nests and a pink surface are typical. The "
            f"lesion was diagnosed as {record.metadata.diagnosis}."
        )
        for record in dataset.records
    }


class PlainImages(Dataset[tuple[Tensor, Tensor, int]]):
    """Decodes, resizes, augments and tokenises at every access."""

    def __init__(self, records: Sequence[Record], notes: dict[str, str], model: Any) -> None:
        self.records, self.notes, self.model = records, notes, model
        self.transform = augmentation(image_size=model.towers.preprocessing.image_size)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor, int]:
        record = self.records[row]
        with Image.open(record.image_path) as image:
            pixels = images.preprocess(image, preprocessing=self.model.towers.preprocessing)
        tokens = self.model.towers.tokenizer([self.notes[record.image_id]])[0]
        return self.transform(torch.from_numpy(pixels)), tokens, self.model.classes.index(record.label)


def plain(config: TrainConfig, split: Split, classes: tuple[str, ...], notes: dict[str, str], *, loaders: int) -> float:
    """Seconds for all epochs of the plain loop, including validation."""
    torch.manual_seed(config.seed)
    model = checkpoint.build_model(config, classes=classes, with_notes=True)
    model.towers.visual.requires_grad_(requires_grad=True)
    counts = {name: sum(record.label == name for record in split.train) for name in classes}
    weights = [1 / counts[record.label] for record in split.train]
    train_images = PlainImages(split.train, notes, model)
    val_images = PlainImages(split.val, notes, model)
    sampler = WeightedRandomSampler(weights, len(weights))
    batches = DataLoader(train_images, batch_size=config.batch_size, sampler=sampler, num_workers=loaders)
    val_batches = DataLoader(val_images, batch_size=config.batch_size, num_workers=loaders)
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = Adam(trainable, lr=config.lr, weight_decay=config.weight_decay, amsgrad=True)
    started = time.perf_counter()
    for _ in range(config.epochs):
        for pixels, tokens, labels in batches:
            image, text = model.image_branch(pixels), model.text_branch(model.towers.text(tokens))
            loss = image_text_loss(image, text, labels, weights=config.losses).total
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        with torch.inference_mode():
            for pixels, _, _ in val_batches:
                model.image_branch(pixels)
    return time.perf_counter() - started


def ours(config: TrainConfig, split: Split, classes: tuple[str, ...], notes: dict[str, str]) -> float:
    """Seconds from the first decoded image until `train` returns, with text features, validation and written files."""
    started: list[float] = []

    def report(_: Step) -> None:
        if not started:
            started.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        train(config, split=split, classes=classes, notes=notes, run_dir=Path(folder), progress=report)
        return time.perf_counter() - started[0]


def measure(arm: str, *, count: int, epochs: int, size: int, folder: Path) -> dict[str, float]:
    """Images per second over all epochs, and the peak memory of the process in MiB."""
    dataset = load_dataset(draw_dataset(folder / f"drawn-{count}", count=count))
    split, notes = split_dataset(dataset), notes_of(dataset)
    config = TrainConfig(image_size=size, epochs=epochs, patience=epochs)
    if arm == "dermnote":
        seconds = ours(config, split, dataset.classes, notes)
    else:
        seconds = plain(config, split, dataset.classes, notes, loaders=2 if "loaders" in arm else 0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images_per_s": epochs * len(split.train) / seconds, "peak_mib": peak}


def run_in_subprocess(arm: str, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """One measurement in its own process."""
    command = [sys.executable, "-m", "lab.train", "--arm", arm, "--folder", str(folder)]
    sizes = {"--count": options.count, "--epochs": options.epochs, "--size": options.size}
    arguments = [part for name, value in sizes.items() for part in (name, str(value))]
    done = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)  # noqa: S603
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    """Run the arms in turn; print medians and ratio, and write all measurements to lab/results/train.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=320, help="drawn lesions")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=128, help="image side in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        result = measure(
            options.arm, count=options.count, epochs=options.epochs, size=options.size, folder=options.folder
        )
        print(json.dumps(result))
        return
    rows: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        draw_dataset(Path(folder) / f"drawn-{options.count}", count=options.count)
        for _ in range(options.rounds):
            for arm in ARMS:
                rows[arm].append(run_in_subprocess(arm, options, Path(folder)))
    medians = {
        arm: {name: statistics.median(row[name] for row in results) for name in results[0]}
        for arm, results in rows.items()
    }
    fastest = max(medians[arm]["images_per_s"] for arm in ARMS[1:])
    ratio = medians["dermnote"]["images_per_s"] / fastest
    for arm, result in medians.items():
        print(f"{arm:18} {result['images_per_s']:7.1f} images/s   peak {result['peak_mib']:6.0f} MiB")
    print(f"dermnote / the faster plain loop: {ratio:.2f}")
    RESULTS.parent.mkdir(exist_ok=True)
    summary = {
        "rounds": rows,
        "medians": medians,
        "ratio": ratio,
        "settings": vars(options),
        "machine": platform.platform(),
    }
    RESULTS.write_text(json.dumps(summary, indent=1, default=str) + "\n", "utf-8")


if __name__ == "__main__":
    main()
