"""OpenAI's client for Node.js runs a batch."""

import json
from pathlib import Path

import pytest
from client_environments import INSTALLED, NODE, run
from job_runs import MODEL, write_input
from processes import clean_environment, running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_openai_s_client_for_node_runs_a_batch(tmp_path: Path) -> None:
    NODE.install()
    write_input(tmp_path / "in.jsonl", 20)
    with running(["--model", MODEL], env=clean_environment(EMB_PROVIDER_JOBS_FOLDER=str(tmp_path / "jobs"))) as server:
        server.wait_until_ready()
        program = INSTALLED / NODE.name / "batches.mjs"
        found = json.loads(run([NODE.node, str(program), f"{server.url}/v1", str(tmp_path / "in.jsonl")]))
    assert (found["states"][0], found["states"][-1]) == ("validating", "completed")
    assert found["counts"] == {"total": 20, "completed": 18, "failed": 2}
    assert found["output"] == [[f"r{i}", 200] for i in range(20) if i % 10]
    assert found["errors"] == [["r0", 400], ["r10", 400]]
    assert (found["isListed"], found["deleted"], found["unknown"]) == (True, True, True)
