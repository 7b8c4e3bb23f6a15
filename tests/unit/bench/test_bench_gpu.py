"""`scripts/bench-gpu` on a machine without a CUDA device."""

import subprocess
import sys
from pathlib import Path

from waiting import PATIENCE_SECONDS

SCRIPT = Path(__file__).parents[3] / "scripts" / "bench-gpu"


def test_without_a_cuda_device_it_says_so_in_one_line() -> None:
    # Hides the devices of a machine that has some.
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "no CUDA device" in line
