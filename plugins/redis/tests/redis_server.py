"""A real Redis, on a free port or a socket, for tests and `scripts/chaos-redis`."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from waiting import PATIENCE_SECONDS, free_port, wait_until


class RedisServer:
    """A server that can be stopped, halted and started again at the same port, empty."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("redis-server")
        assert found is not None, "redis-server was not found: on Debian and Ubuntu, apt-get install redis-server"
        self._command, self._folder, self.port = found, folder, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://localhost:{self.port}/0"

    def start(self, *arguments: str) -> None:
        """Start it, and return when it answers."""
        log = self._folder / "redis.log"
        settings = ("--port", str(self.port), "--bind", "127.0.0.1", "::1", "--save", "", "--logfile", str(log))
        self._process = subprocess.Popen([self._command, *settings, *arguments], cwd=self._folder)
        wait_until(lambda: self.ask("PING") == b"+PONG\r\n")

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            self._process.wait(PATIENCE_SECONDS)
            self._process = None

    def halt(self) -> None:
        """It hangs: connections are accepted by the kernel, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ask(self, *words: str) -> bytes:
        """The first line or more of the answer to a command; empty if nobody answers."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 5) as connection:
                connection.sendall(" ".join(words).encode() + b"\r\n")
                return connection.recv(65_536)
        except OSError:
            return b""


@contextmanager
def redis_running(folder: Path, *arguments: str) -> Iterator[RedisServer]:
    """A server; ended at the end."""
    server = RedisServer(folder)
    server.start(*arguments)
    try:
        yield server
    finally:
        server.stop()
