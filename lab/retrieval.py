"""Search over HTTP beside clip-retrieval's service and FAISS alone: the same clustered vectors, all on this machine.

Each size is loaded over HTTP, served anew from its files, and searched by 1, 8 and 32 clients: by vector, and with
filters that keep half, a hundredth and a ten-thousandth. Then image queries through the `lite` towers by ONNX
Runtime and by open_clip. `--sizes 10000 100000 1000000` is the whole of it.
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
PICTURES = 64


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES, help="of image queries")
    parser.add_argument("--models", type=Path, default=Path(".dermnote/models"), help="folder of models, for lite")
    parser.add_argument("--out", type=Path, default=Path("lab/results/retrieval.json"))
    return parser.parse_args(given)


def measured(arguments: argparse.Namespace) -> Iterator[Arm]:
    """Every arm, one at a time."""
    asked = {"clients": arguments.clients, "seconds": arguments.seconds}
    for count in arguments.sizes:
        if "ours" in arguments.sides:
            with tempfile.TemporaryDirectory(prefix="dn-") as folder:
                yield run_ours(count, folder=Path(folder), **asked)
        if "faiss" in arguments.sides:
            yield run_faiss(count, seconds=arguments.seconds)
        if "clip-retrieval" in arguments.sides:
            with tempfile.TemporaryDirectory(prefix="dn-") as folder:
                yield run_clip_retrieval(count, folder=Path(folder), **asked)
    if "images" in arguments.sides:
        for runtime in arguments.runtimes:
            with tempfile.TemporaryDirectory(prefix="dn-") as folder:
                drawn = pictures(Path(folder, "drawn"))
                yield run_images(
                    drawn, runtime=runtime, folder=Path(folder, "data"), models=lite(arguments.models), **asked
                )


def pictures(folder: Path) -> list[bytes]:
    """Drawn lesions as JPEG files' contents."""
    from dermnote_train.data.draw import IMAGES, draw_dataset  # noqa: PLC0415 - heavy, and for one arm only

    drawn = draw_dataset(folder, count=PICTURES)
    return [path.read_bytes() for path in sorted((drawn / IMAGES).iterdir())]


def lite(models: Path) -> Path:
    """The folder of models, with `lite` in it, for both runtimes where it had to be made."""
    if not (models / "lite" / "image.onnx").is_file():
        command = [str(Path(sys.executable).with_name("dermnote")), "export", "lite", "--models-dir", str(models)]
        subprocess.run(command, check=True)  # noqa: S603 - the command is the benchmark's own
    return models


def main() -> None:
    """Measure, print a table and ratios, write JSON and plots."""
    arguments = read_arguments()
    arms: list[Arm] = []
    for arm in measured(arguments):
        arms.append(arm)
        print(table([arm]), f"\n{arm.figures}", flush=True)
    found = ratios(arms)
    for name, value in found.items():
        print(f"{name}: {value:.2f}")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "arms": [asdict(arm) for arm in arms],
        "ratios": found,
    }
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    plot(arms, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
