"""How many CPU cores this process may use, alone or as one of several workers; and which processor they belong to."""

import contextlib
import os
import platform
from pathlib import Path

from attrs import frozen


@frozen
class Worker:
    """Which one this process is of those that serve together on one machine.

    Attributes:
        number: from 0.
        count: how many there are.
        most_cores: most cores that this process takes; None for its share of those there are.
    """

    number: int = 0
    count: int = 1
    most_cores: int | None = None

    @property
    def is_alone(self) -> bool:
        """Whether the whole machine is this process's."""
        return self.count == 1

    def cores(self, available: int) -> int:
        """Its share of the `available` cores, the same for all of them, at least 1 and at most `most_cores`."""
        share = max(1, available // self.count)
        return share if self.most_cores is None else min(share, max(1, self.most_cores))


ONLY_WORKER = Worker()
"""The only process."""


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may use, at least 1: the affinity mask, cut by the cgroup's CPU quota (v2, then v1).

    A container limited to two cores of a large machine sees the whole machine in `os.cpu_count()`; starting one thread
    for each of those makes every forward pass wait for threads that are not running.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_v2(cgroup) or _quota_v1(cgroup)
    return max(1, min(cores, int(quota))) if quota else cores


def waited_seconds(tasks: Path = Path("/proc/self/task")) -> float:
    """How long the living threads of this process were able to run but had no core, together; 0 if nobody counts."""
    nanoseconds = 0
    for task in tasks.glob("*/schedstat"):
        # A thread may end meanwhile; a kernel may count nothing.
        with contextlib.suppress(OSError, ValueError, IndexError):
            nanoseconds += int(task.read_text(encoding="ascii").split()[1])
    return nanoseconds / 1e9


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What code and measurements for this machine's processor depend on: its model, and its instructions."""
    lines: set[str] = set()
    with contextlib.suppress(OSError):
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
        lines = {line for line in text.splitlines() if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return "\n".join([platform.machine(), platform.processor(), *sorted(lines)])


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
