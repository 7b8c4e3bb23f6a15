"""Servers that a benchmark starts on this machine, measures and ends. Linux only: figures come from `/proc`."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from attrs import frozen

from provider.errors import ContenderFailed

START_SECONDS = 600.0
_STOP_SECONDS = 30.0


@frozen
class LocalServer:
    """A server process on this machine.

    Attributes:
        origin: scheme, host and port of its URL.
        pid: of the process that was started.
    """

    origin: str
    pid: int

    @classmethod
    @contextmanager
    def running(
        cls,
        command: Sequence[str],
        *,
        health: str = "/health/ready",
        env: Mapping[str, str] | None = None,
        seconds: float = START_SECONDS,
    ) -> Iterator[Self]:
        """A server from its first healthy answer on; its process ends with the block.

        Args:
            command: every `{port}` in it becomes a free port.
            health: path that answers 200 as soon as the server is ready.
            env: variables beside those of this process.
            seconds: to become ready in.

        Raises:
            ContenderFailed: it ended before it was ready, or was not ready in time; with its last line.
        """
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        argv = [each.replace("{port}", str(port)) for each in command]
        # A folder without `litestar.yaml` and `.env`.
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
            process = subprocess.Popen(  # noqa: S603 - the caller's own command
                argv,
                cwd=folder,
                env=os.environ | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                server = cls(f"http://127.0.0.1:{port}", process.pid)
                deadline = time.monotonic() + seconds
                while not answers(server.origin + health):
                    if process.poll() is not None or time.monotonic() > deadline:
                        output.seek(0)
                        lines = [line.strip() for line in output.read().decode("utf-8", "replace").split("\n")]
                        last = next((line for line in reversed(lines) if line), "it said nothing")
                        msg = f"{' '.join(argv)} did not become ready: {last}"
                        raise ContenderFailed(msg)
                    time.sleep(0.2)
                yield server
            finally:
                process.terminate()
                try:
                    process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def resident_bytes(self) -> int:
        """Memory that the process and its children hold now."""
        return sum(_resident(pid) for pid in (self.pid, *_children(self.pid)))

    def cpu_seconds(self) -> float:
        """Processor time of the process, its children excluded."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def exit_on_sigterm() -> None:
    """End this process by an exception when it is told to stop, so that the servers it started end too."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _children(pid: int) -> Iterator[int]:
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in tasks.read_text(encoding="utf-8").split():
            yield int(child)
            yield from _children(int(child))


def _resident(pid: int) -> int:
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
