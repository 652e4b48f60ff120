"""Measure every layout of the weights on this machine and remember the fastest one for later starts of the engine.

python -m dermnote_notegen.engine.tune      (with the engine's settings; takes about a minute on an idle machine)
"""

import logging
import os
import sys

from dermnote_http.app import start_errors
from dermnote_http.settings import read_settings
from dermnote_notegen.engine.model import ModelInfo, ModelNotFound, find_weights
from dermnote_notegen.engine.server import OPENMP_SPINS
from dermnote_notegen.settings import Settings

PROGRAM = "dermnote_notegen.engine.tune"


def main() -> None:
    """Measure the layouts of the model that NOTEGEN_MODEL names, with as many threads as the engine uses."""
    logging.basicConfig(level="INFO", format="%(message)s")
    os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPINS)  # as in the engine; read when llama.cpp is loaded
    with start_errors(PROGRAM):
        settings = read_settings(Settings)
    from dermnote_notegen.engine.tune.layouts import WeightsFile  # noqa: PLC0415  loads llama.cpp
    from dermnote_notegen.engine.tune.tuning import tune  # noqa: PLC0415

    try:
        name, path, sha256 = find_weights(settings.model)
        source = WeightsFile(path, ModelInfo(name, sha256))
        chosen = tune(source, threads=settings.engine_threads, folder=settings.cache_dir)
    except (ModelNotFound, OSError) as error:
        sys.exit(f"{PROGRAM}: {error}")
    print(f"{name} runs with {chosen} on this machine from the next start on, if NOTEGEN_REQUANTIZE is auto")


if __name__ == "__main__":
    main()
