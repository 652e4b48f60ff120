"""Number of CPU cores that this process may use: its CPU affinity, limited by its container's CPU quota."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """Cores by affinity, or fewer where a cgroup (v2 or v1) limits CPU time; a part of a core counts as one."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _limit(cgroups)
    return bound if limit is None else max(1, min(bound, math.ceil(limit)))


def _limit(cgroups: Path) -> float | None:
    """The limit in cores (CPU time per elapsed time) from `docker run --cpus` or Kubernetes; None without a limit.

    A container sees its own cgroup at the root of the mount.
    https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/scheduler/sched-bwc.html
    """
    try:
        quota, period = (cgroups / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    try:
        return int(quota) / int(period) if int(quota) > 0 else None  # no limit: -1 in v1, "max" in v2
    except (ValueError, ZeroDivisionError):
        return None
