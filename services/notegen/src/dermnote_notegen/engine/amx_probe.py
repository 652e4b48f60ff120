"""Checks in a child process whether weights repacked for the CPU's matrix tiles (AMX) work on this machine.

ggml repacks quantised weights for AMX, and on some machines computing with them kills the process (ggml-org/llama.cpp
#20824). That cannot be caught, so without this check the engine would crash at its first request after every start.

    python -m dermnote_notegen.engine.amx_probe WEIGHTS     (the child: decodes with repacked weights)
"""

import logging
import subprocess
import sys
from pathlib import Path

from dermnote_notegen.engine.llama import ContextConfig, LlamaContext, Weights, cpu_flags
from dermnote_notegen.engine.model import BatchToken

log = logging.getLogger(__name__)
TIMEOUT_S = 120.0
PROMPT_TOKENS, SINGLE_TOKENS, THREADS = 48, 4, 2


def repacking_works(path: Path) -> bool:
    """True on CPUs without AMX; with AMX, whether a child process survives computing with the repacked weights."""
    if "amx_int8" not in cpu_flags():
        return True
    works = succeeds([sys.executable, "-m", "dermnote_notegen.engine.amx_probe", str(path)])
    if not works:
        log.warning("weights repacked for AMX do not work on this machine; the engine does not repack them")
    return works


def succeeds(command: list[str]) -> bool:
    """Whether a command exits with 0 within the time limit."""
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=TIMEOUT_S).returncode == 0  # noqa: S603
    except subprocess.TimeoutExpired:
        return False


def main(path: Path) -> None:
    """Decode a prompt, then single tokens, because ggml uses different kernels for the two."""
    weights = Weights(path, gpu_layers=0, repack=True)
    context = LlamaContext(weights, ContextConfig(cells=256, max_sequences=1, threads=THREADS))
    context.decode([BatchToken(token, token, 0, token == PROMPT_TOKENS - 1) for token in range(PROMPT_TOKENS)])
    for position in range(PROMPT_TOKENS, PROMPT_TOKENS + SINGLE_TOKENS):
        context.decode([BatchToken(1, position, 0, logits=True)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
