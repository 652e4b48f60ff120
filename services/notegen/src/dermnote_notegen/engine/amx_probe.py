"""Whether llama.cpp's repacked weights can be computed with here: tried in a process of its own, never in the engine.

ggml repacks quantised weights for the CPU's matrix tiles (AMX), and on some machines computing with them ends the
process (ggml-org/llama.cpp #20824). Nothing can catch that, so an engine would die at its first note, again and again.
"""

import logging
import subprocess
import sys
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)
SUSPECT = "amx_int8"
TRIED_FOR_S = 120.0


@cache
def repacking_works(path: Path) -> bool:
    """True on CPUs without such tiles; elsewhere whether a process that computes with these weights lives."""
    if SUSPECT not in cpu_flags():
        return True
    works = survives([sys.executable, "-m", "dermnote_notegen.engine.amx_trial", str(path)])
    if not works:
        log.warning("llama.cpp's weights for this CPU's matrix tiles end the process here; it computes without them")
    return works


def survives(command: list[str]) -> bool:
    """Whether a command ends well, and in time."""
    try:
        return subprocess.run(command, check=False, capture_output=True, timeout=TRIED_FOR_S).returncode == 0  # noqa: S603
    except subprocess.TimeoutExpired:
        return False


def cpu_flags() -> frozenset[str]:
    """What the CPU says that it can do; nothing where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
