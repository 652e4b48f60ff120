"""`python -m dermnote_notegen.engine.amx_trial WEIGHTS` computes with repacked weights."""

import sys
from pathlib import Path

from dermnote_notegen.engine.context import Row
from dermnote_notegen.engine.llama import LlamaContext, Shape, Weights

MANY, THREADS = 48, 2


def main(path: Path) -> None:
    """Many tokens at a time and one at a time: ggml has a kernel for each."""
    weights = Weights(path, gpu_layers=0, repacked=True)
    context = LlamaContext(weights, Shape(cells=256, lanes=1, threads=THREADS))
    context.decode([Row(token, token, 0, wanted=token == MANY - 1) for token in range(MANY)])
    for place in range(MANY, MANY + 4):
        context.decode([Row(1, place, 0, wanted=True)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
