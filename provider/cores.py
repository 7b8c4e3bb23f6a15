"""How many CPU cores this process may use."""

import os
from pathlib import Path


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may use, at least 1: the affinity mask, cut by the cgroup's CPU quota (v2, then v1).

    A container limited to two cores of a large machine sees the whole machine in `os.cpu_count()`; starting one thread
    for each of those makes every forward pass wait for threads that are not running.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_v2(cgroup) or _quota_v1(cgroup)
    return max(1, min(cores, int(quota))) if quota else cores


def _quota_v2(cgroup: Path) -> float | None:
    """`cpu.max` holds "quota period" in microseconds, or "max period" where there is no limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
        return float(quota) / float(period)
    except (OSError, ValueError):
        return None


def _quota_v1(cgroup: Path) -> float | None:
    """`cpu.cfs_quota_us` is -1 where there is no limit."""
    try:
        quota = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 and period > 0 else None
