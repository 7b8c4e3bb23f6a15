"""Several processes behind one port: started, watched, started again, and ended together.

This process opens the port, loads no model and answers no request. It accepts connections and hands them to its
workers in turn, which spreads them evenly on every platform; what goes over them it never sees.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

import structlog
from attrs import define

from provider.cli.dispatcher import Dispatcher
from provider.cli.orders import Loaded
from provider.cli.server import announce, listen, log_listening, url_of
from provider.cli.worker_process import WorkerProcess
from provider.domain import Worker
from provider.errors import ProviderError
from provider.settings import Settings

_log = structlog.get_logger("provider.workers")

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
# A worker that lived for so long did not die of its start.
_STEADY_SECONDS = 60.0
# Told to stop, and stopped: in time, or by the same signal before it could obey.
_EXPECTED = (0, -signal.SIGTERM)


@define
class Backoff:
    """How long to wait before a worker is started again: twice as long each time, until one lives for a while."""

    _pause: float = _FIRST_PAUSE_SECONDS

    def pause(self, lived_seconds: float) -> float:
        """Seconds to wait after a worker that lived for `lived_seconds`."""
        if lived_seconds >= _STEADY_SECONDS:
            self._pause = _FIRST_PAUSE_SECONDS
        pause, self._pause = self._pause, min(_LONGEST_PAUSE_SECONDS, self._pause * 2)
        return pause


class Supervisor:
    """The workers of one service. Everything happens on the event loop's thread."""

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket], *, show_progress: bool) -> None:
        """Nothing starts before `run`."""
        self._settings, self._sockets, self._show_progress = settings, sockets, show_progress
        self._count = settings.server.workers
        self._workers: dict[int, WorkerProcess] = {}
        self._dispatcher = Dispatcher(sockets, lambda: list(self._workers.values()))
        self._stopping = asyncio.Event()
        self._reason = ""
        self._was_listening = False
        self._all_loaded, not_all_loaded = os.pipe()
        self._not_all_loaded: int | None = not_all_loaded
        self._failure: ProviderError | None = None
        self._is_clean = True

    async def run(self) -> bool:
        """Keep all workers alive until a signal says otherwise.

        Returns:
            Whether every worker ended as it was told to.

        Raises:
            ProviderError: a worker could not load any model when the service started, and why.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # Where it is ignored, as SIGHUP is under `nohup`, it stays so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                loop.add_signal_handler(number, self._on_signal, number)
        await asyncio.gather(*(self._keep(number) for number in range(self._count)))
        if self._failure is not None:
            raise self._failure
        return self._is_clean

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            for worker in self._workers.values():
                worker.kill()
            os._exit(128 + number)
        self._stop(number.name)

    def _stop(self, reason: str) -> None:
        self._reason = reason
        self._stopping.set()
        for worker in self._workers.values():
            worker.end(reason)

    async def _keep(self, number: int) -> None:
        """One worker after another, until everything ends."""
        backoff, is_first = Backoff(), True
        while not self._stopping.is_set():
            started = time.monotonic()
            facts: dict[str, Any] = {}
            try:
                worker = await self._start(number)
            except OSError as exc:
                facts["reason"] = exc.strerror
            else:
                facts |= {"pid": worker.process.pid, "code": await worker.process.wait()}
                self._receive(worker)
                self._forget(number)
                if self._stopping.is_set():
                    self._is_clean &= facts["code"] in _EXPECTED
                    return
                if worker.failure is not None:
                    facts["reason"] = worker.failure.message
                    if is_first:
                        # What it cannot load, it cannot load after a pause either.
                        self._failure = worker.failure
                        self._stop("a worker could not start")
                        return
            is_first = False
            pause = backoff.pause(time.monotonic() - started)
            _log.error("worker_ended", worker=number, restart_seconds=pause, **facts)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _start(self, number: int) -> WorkerProcess:
        worker = self._workers[number] = await WorkerProcess.start(
            self._settings,
            Worker(number, self._count),
            self._all_loaded,
            # One bar is enough: the others wait for the same files.
            show_progress=self._show_progress and number == 0,
        )
        _log.info("worker_started", worker=number, pid=worker.process.pid)
        asyncio.get_running_loop().add_reader(worker.connection.fileno(), self._receive, worker)
        if self._stopping.is_set():
            worker.end(self._reason)
        return worker

    def _receive(self, worker: WorkerProcess) -> None:
        """Read what the worker has said so far."""
        try:
            for news in worker.receive():
                match news:
                    case "listening":
                        self._begin_to_listen(worker)
                    case Loaded(models):
                        worker.is_loaded = True
                        self._tell_if_all_loaded(models)
                    case "leaving":
                        self._leave(worker)
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(worker.connection.fileno())

    def _begin_to_listen(self, worker: WorkerProcess) -> None:
        worker.is_listening = True
        if not self._was_listening:
            self._was_listening = True
            log_listening(self._settings.server, self._sockets)
        self._dispatcher.update()

    def _tell_if_all_loaded(self, models: Sequence[str]) -> None:
        is_all = sum(worker.is_loaded for worker in self._workers.values()) == self._count
        if is_all and self._not_all_loaded is not None:
            os.close(self._not_all_loaded)
            self._not_all_loaded = None
            announce(models, url_of(self._settings.server, self._sockets))

    def _leave(self, worker: WorkerProcess) -> None:
        """No more connections for it. The last one gets those that were made and not yet accepted."""
        if self._stopping.is_set() and self._dispatcher.listening_workers == [worker]:
            self._dispatcher.close()
        worker.is_listening = False
        worker.handover.close()
        self._dispatcher.update()

    def _forget(self, number: int) -> None:
        worker = self._workers.pop(number)
        asyncio.get_running_loop().remove_reader(worker.connection.fileno())
        worker.close()
        self._dispatcher.update()


def run_workers(settings: Settings, *, show_progress: bool) -> None:
    """Serve with `server.workers` processes until told to stop.

    Raises:
        CannotListen: the port is taken, or the address is not one of this machine's.
        ProviderError: a worker could not load any model when the service started; this is why.
    """
    sockets = listen(settings.server)

    async def supervise() -> bool:
        return await Supervisor(settings, sockets, show_progress=show_progress).run()

    if not asyncio.run(supervise()):
        sys.exit(1)
