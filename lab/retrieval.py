"""Benchmarks our search over HTTP against clip-retrieval's service and in-process FAISS on the same clustered vectors.

For each size, the vectors are loaded over HTTP, the service is restarted from its files, and 1, 8 and 32 clients
search: by vector, and with filters that keep 50 %, 1 % and 0.01 % of the items. Then image queries run through the
`lite` towers with ONNX Runtime and with open_clip. `--sizes 10000 100000 1000000` runs the complete benchmark.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from lab.search.arms import Arm, run_clip_retrieval, run_faiss, run_images, run_ours
from lab.search.report import plot, ratios, table

SIDES = ("ours", "faiss", "clip-retrieval", "images")
RUNTIMES = ("onnx", "openclip")
QUERY_IMAGES = 64


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=4, help="duration of each measurement")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument(
        "--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES, help="runtimes of the image queries"
    )
    parser.add_argument(
        "--models",
        type=Path,
        default=Path(".dermnote/models"),
        help="directory of model folders; `lite` is exported into it if missing",
    )
    parser.add_argument("--out", type=Path, default=Path("lab/results/retrieval.json"))
    return parser.parse_args(given)


def run_arms(arguments: argparse.Namespace) -> Iterator[Arm]:
    """Run the selected arms one after another."""
    options = {"clients": arguments.clients, "seconds": arguments.seconds}
    for count in arguments.sizes:
        if "ours" in arguments.sides:
            with tempfile.TemporaryDirectory(prefix="dn-") as folder:
                yield run_ours(count, folder=Path(folder), **options)
        if "faiss" in arguments.sides:
            yield run_faiss(count, seconds=arguments.seconds)
        if "clip-retrieval" in arguments.sides:
            with tempfile.TemporaryDirectory(prefix="dn-") as folder:
                yield run_clip_retrieval(count, folder=Path(folder), **options)
    if "images" in arguments.sides:
        for runtime in arguments.runtimes:
            with tempfile.TemporaryDirectory(prefix="dn-") as folder:
                yield run_images(
                    draw_images(Path(folder, "drawn")),
                    runtime=runtime,
                    folder=Path(folder, "data"),
                    models=ensure_lite(arguments.models),
                    **options,
                )


def draw_images(folder: Path) -> list[bytes]:
    """The JPEG files of drawn lesions, as bytes."""
    from dermnote_train.data.draw import IMAGES, draw_dataset  # noqa: PLC0415 - slow to import, and only one arm needs it

    drawn = draw_dataset(folder, count=QUERY_IMAGES)
    return [path.read_bytes() for path in sorted((drawn / IMAGES).iterdir())]


def ensure_lite(models: Path) -> Path:
    """Export `lite` for both runtimes into the directory `models` unless it is there; returns the directory."""
    if not (models / "lite" / "image.onnx").is_file():
        command = [str(Path(sys.executable).with_name("dermnote")), "export", "lite", "--models-dir", str(models)]
        subprocess.run(command, check=True)  # noqa: S603 - the command is the benchmark's own
    return models


def main() -> None:
    """Measure, print a table and ratios, write JSON and plots."""
    arguments = read_arguments()
    arms: list[Arm] = []
    for arm in run_arms(arguments):
        arms.append(arm)
        print(table([arm]), f"\n{arm.measurements}", flush=True)
    comparison = ratios(arms)
    for name, value in comparison.items():
        print(f"{name}: {value:.2f}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "arms": [asdict(arm) for arm in arms],
        "ratios": comparison,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    plot(arms, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
