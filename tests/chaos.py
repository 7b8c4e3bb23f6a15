"""Faults under load, on servers of our own: stops, killed, stopped and hung workers, clients that leave.

`scripts/chaos` repeats each and prints figures; `tests/live/test_chaos.py` does each once, and judges what does not
depend on the machine's speed.
"""

import argparse
import json
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from chaos_load import (
    CALLERS,
    MODEL,
    Finding,
    Load,
    counted,
    dealt_with,
    embed,
    ready_worker,
    resident_mib,
    served,
    share_of,
    signal_worker,
    under_way,
    until_answered,
)
from processes import ServerProcess, holding_environment, running
from waiting import PATIENCE_SECONDS, wait_until

# A supervisor takes longer each time to start a worker again that keeps dying.
KILLS_OF_A_SERVER = 4
# The exit code of a process in which every pass hangs.
_HANGS = 70
# A kept connection is ended at this age at the latest.
_CONNECTION_SECONDS = 30.0
# Memory that requests may leave behind.
_MOST_MIB = 60


def stops(backend: str, times: int) -> Finding:
    """SIGTERM under load: every admitted request gets its answer, and the server ends with 0."""
    wrong: list[str] = []
    for _ in range(times):
        with served(backend) as (server, usage):
            load = Load(server.url)
            with load.running():
                server.signal()
                code = server.wait()
            finished = sum(line.get("route") == "/v1/embeddings" for line in server.log)
            wrong += [f"{n} of {finished} requests counted"] if (n := counted(usage)) != finished else []
            # By the log: the request of a caller that is slow to send may find its connection closed, never admitted.
            answered = sum(line.get("status") == 200 and line["route"] == "/v1/embeddings" for line in server.log)
            lost = answered - load.answers[200] + sum(line.get("status") == 499 for line in server.log)
            wrong += load.wrong(200, 503)
            wrong += [f"{lost} requests cut off"] if lost else []
            wrong += [f"exit code {code}"] if code else []
    return Finding("SIGTERM under load", times, tuple(wrong))


def kills(backend: str, times: int) -> Finding:
    """kill -9 of one worker of two under load: only what it was running is lost, and others are answered at once."""
    wrong: list[str] = []
    seconds, uncounted = 0.0, 0
    for first in range(0, times, KILLS_OF_A_SERVER):
        with served(backend, "--workers", "2") as (server, usage):
            sent = answered = 0
            for number in range(min(KILLS_OF_A_SERVER, times - first)):
                load = Load(server.url)
                with load.running():
                    signal_worker(server, number % 2, signal.SIGKILL)
                    took, asked = until_answered(server)
                    seconds = max(seconds, took)
                    wait_until(lambda: {ready_worker(server) for _ in range(4)} == {0, 1})
                wrong += load.wrong(200)
                wrong += load.cut if len(load.cut) > CALLERS else []
                answered += load.answers.total() + 1
                sent += load.answers.total() + len(load.cut) + asked
            server.signal()
            server.wait()
            uncounted += max(0, answered - counted(usage))
            wrong += [f"{n} requests counted of {sent}"] if (n := counted(usage)) > sent else []
    return Finding("kill -9 of a worker", times, tuple(wrong), seconds, uncounted)


def halts(backend: str, times: int) -> Finding:
    """SIGSTOP of one worker of two: it is replaced, and connections that it had not taken are answered by the other."""
    wrong: list[str] = []
    with served(backend, "--workers", "2") as (server, _):
        for number in range(times):
            stopped = signal_worker(server, number % 2, signal.SIGSTOP)
            for _ in range(4):
                wrong += [] if (status := embed(server).status_code) == 200 else [f"{status}"]
            server.wait_for("worker_killed", pid=stopped)
            wait_until(lambda: {ready_worker(server) for _ in range(4)} == {0, 1})
    return Finding("SIGSTOP of a worker", times, tuple(wrong))


def leavers(backend: str, times: int, clients: int = 500) -> Finding:
    """Clients that leave half-way: nothing of them is left."""
    body = b'{"model": "%b", "input": ["%b"]}' % (MODEL.encode(), b"half-way " * 100)
    request = (
        b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
    )
    seconds = 0.0
    with served(backend) as (server, _):
        for _ in range(times):
            connections = [
                socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS) for _ in range(clients)
            ]
            for i, each in enumerate(connections):
                whole = request % (len(body), body)
                each.sendall(whole if i % 2 else whole[: len(whole) // 2])
            for each in connections:
                each.close()
            started = time.monotonic()
            wait_until(lambda: under_way(server) == 0)
            seconds = max(seconds, time.monotonic() - started)
        wrong = [] if (status := embed(server).status_code) == 200 else [f"{status} afterwards"]
    return Finding(f"{clients} clients leave half-way", times, tuple(wrong), seconds)


def hangs(_: str, times: int) -> Finding:
    """Every pass of one worker of two hangs: its callers are told, and it is replaced. With a backend that can hang."""
    wrong: list[str] = []
    # Passes that hang are looked for once a second.
    seconds, most, look = 0.0, 3, 1
    with tempfile.TemporaryDirectory() as folder:
        go = Path(folder) / "go"
        environment = holding_environment(Path(folder)) | {
            "EMB_PROVIDER_QUEUE_STALL_SECONDS": str(most),
            "EMB_PROVIDER_SERVER_SHUTDOWN_SECONDS": "0",
        }
        with running(["--workers", "2"], env=environment, cwd=Path(folder)) as server:
            server.wait_until_ready()
            for _ in range(times):
                go.unlink()
                started = time.monotonic()
                refused = embed(server)
                seconds = max(seconds, time.monotonic() - started - most - look)
                if (refused.status_code, refused.json().get("error", {}).get("code")) != (503, "model_stalled"):
                    wrong.append(f"{refused.status_code} of a pass that hangs")
                if (code := server.wait_for("worker_ended")["code"]) != _HANGS:
                    wrong.append(f"exit code {code}")
                server.log.clear()
                go.touch()
                wait_until(lambda: {ready_worker(server) for _ in range(4)} == {0, 1})
                wrong += [] if (status := embed(server).status_code) == 200 else [f"{status} afterwards"]
    return Finding(f"a pass hangs, {most} s allowed, noticed within {look} s", times, tuple(wrong), seconds)


def restarts(backend: str, times: int) -> Finding:
    """A worker of two is started again under load: it gets its share of the kept connections."""
    wrong: list[str] = []
    seconds = 0.0
    with served(backend, "--workers", "2") as (server, _):
        for number in range(times):
            load, worker = Load(server.url), number % 2
            with load.running():
                signal_worker(server, worker, signal.SIGKILL)
                wait_until(lambda: {ready_worker(server) for _ in range(4)} == {0, 1})
                started = time.monotonic()
                wait_until(lambda worker=worker: share_of(server, worker) > 1 / 3)
                seconds = max(seconds, time.monotonic() - started)
            wrong += load.wrong(200)
    return Finding("a worker comes back, load is even", times, tuple(wrong), seconds, most=_CONNECTION_SECONDS)


def abandoned(_: str, times: int, requests: int = 3000) -> Finding:
    """Requests whose callers leave while every pass hangs: their memory is free again."""
    wrong: list[str] = []
    texts = [f"{'abandoned ' * 40}{i}" for i in range(16)]
    body = json.dumps({"model": MODEL, "input": texts}).encode()
    request = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        go, environment = Path(folder) / "go", holding_environment(Path(folder))
        environment |= {"EMB_PROVIDER_QUEUE_STALL_SECONDS": "600", "EMB_PROVIDER_CACHE_ENABLED": "false"}
        with running([], env=environment, cwd=Path(folder)) as server:
            server.wait_until_ready()
            go.unlink()
            _leave(server, request, 200)
            before = resident_mib(server.process.pid)
            for _ in range(times):
                for _ in range(requests // 100):
                    _leave(server, request, 100)
                started = time.monotonic()
                wait_until(lambda: under_way(server) == 0)
                seconds = max(seconds, time.monotonic() - started)
                more = resident_mib(server.process.pid) - before
                wrong += [f"{more:.0f} MiB more"] if more > _MOST_MIB else []
            go.touch()
            wrong += [] if (status := embed(server).status_code) == 200 else [f"{status} afterwards"]
    return Finding(f"{requests} callers leave hung passes", times, tuple(wrong), seconds)


def _leave(server: ServerProcess, request: bytes, count: int) -> None:
    """So many callers send a request, and leave when all are under way or refused."""
    connections = [socket.create_connection(("127.0.0.1", server.port), PATIENCE_SECONDS) for _ in range(count)]
    before = dealt_with(server)
    for each in connections:
        each.sendall(request)
    wait_until(lambda: dealt_with(server) >= before + count)
    for each in connections:
        each.close()


Fault = Callable[[str, int], Finding]
FAULTS: tuple[Fault, ...] = (stops, kills, halts, restarts, hangs, leavers, abandoned)


def main() -> None:
    """Print a table; exit code 1 if a row is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="stops and kills; the other faults a fifth of it")
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--only", default="", help="part of the names of the faults")
    arguments = parser.parse_args()
    is_right = True
    print("| Fault | Times | Wrong | Told, or normal again, after | Not counted |\n| --- | --- | --- | --- | --- |")  # noqa: T201
    for fault in FAULTS:
        if arguments.only not in fault.__name__:
            continue
        few = max(1, arguments.times // 5)
        found = fault(arguments.backend, arguments.times if fault in (stops, kills) else few)
        took = "" if found.seconds is None else f"{found.seconds:.2f} s of {found.most:g} s"
        lost = "" if found.uncounted is None else str(found.uncounted)
        row = (found.fault, str(found.times), ", ".join(found.wrong) or "nothing", took, lost)
        print(f"| {' | '.join(row)} |", flush=True)  # noqa: T201
        is_right &= not found.wrong and found.is_prompt
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
