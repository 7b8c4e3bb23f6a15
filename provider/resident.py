"""This process's memory: how much it holds, how much it may, giving back what the allocator keeps, and garbage."""

import contextlib
import ctypes
import gc
import os
import sys
from pathlib import Path

# cgroup v1 says "no limit" by a number near the largest of 64 bits.
_NO_LIMIT = 1 << 60


def resident_bytes(statm: Path = Path("/proc/self/statm")) -> int:
    """Memory that this process holds, in bytes; 0 where the system does not say."""
    try:
        return int(statm.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def memory_limit(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Most memory that this process's container may hold, in bytes (cgroup v2, then v1); None without a limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        # v2 says "max" where there is none.
        with contextlib.suppress(OSError, ValueError):
            limit = int((cgroup / name).read_text(encoding="ascii"))
            return limit if limit < _NO_LIMIT else None
    return None


def give_memory_back() -> None:
    """Return to the system what glibc's allocator holds free."""
    # See `man malloc_trim`.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def settle_garbage() -> None:
    """Leave what there is now out of later collections, but for garbage, which is freed.

    Libraries and models are some hundred thousand objects. Going through them stops every thread for a tenth of a
    second, and under load it happens every few seconds. For programs that are a server only: what is left out and
    becomes garbage in cycles is freed by the next call.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
