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

from provider.cores import Worker
from provider.errors import ProviderError
from provider.server.dispatcher import Dispatcher
from provider.server.handle import WorkerHandle
from provider.server.messages import Loaded
from provider.server.reload import ConfigurationReader
from provider.server.sockets import announce, listen, log_listening, url_of

_log = structlog.get_logger("provider.workers")

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
# A worker that lived for so long did not die of its start.
_STEADY_SECONDS = 60.0
# A worker is asked so often within `server.heartbeat_seconds` whether it is alive.
_PINGS = 5
# While it starts and loads, imports may hold the interpreter for long.
_LOADING_FACTOR = 12
# What a worker gets beyond `server.shutdown_seconds` to end.
_GRACE_SECONDS = 5
# Told to stop, and stopped: in time, or by the same signal before it could end by itself.
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

    def __init__(self, reader: ConfigurationReader, sockets: Sequence[socket.socket], *, show_progress: bool) -> None:
        """Nothing starts before `run`."""
        self._reader, self._settings, self._sockets = reader, reader.settings, sockets
        self._show_progress, self._reading = show_progress, asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = self._settings.server.workers
        self._workers: dict[int, WorkerHandle] = {}
        self._dispatcher = Dispatcher(sockets, lambda: list(self._workers.values()))
        self._stopping = asyncio.Event()
        self._reason = ""
        self._was_listening = False
        self._all_loaded, not_all_loaded = os.pipe()
        self._not_all_loaded: int | None = not_all_loaded
        self._failure: ProviderError | None = None
        self._is_clean = True
        self._heart: asyncio.Task[None] | None = None

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
        self._heart = loop.create_task(self._watch())
        try:
            await asyncio.gather(*(self._run_worker(number) for number in range(self._count)))
        finally:
            self._heart.cancel()
        if self._failure is not None:
            raise self._failure
        return self._is_clean

    async def _read_configuration(self) -> None:
        """Read it again; workers that start from now on have it from their start."""
        async with self._reading:
            settings = await asyncio.to_thread(self._reader.read_again)
            if settings is not None:
                self._settings = settings
                for worker in self._workers.values():
                    worker.reconfigure(settings)

    def _on_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP and not self._reader.is_hangup:
            task = asyncio.get_running_loop().create_task(self._read_configuration())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
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
        asyncio.get_running_loop().call_later(
            self._settings.server.shutdown_seconds + _GRACE_SECONDS, self._end_overdue, "did not end in time"
        )

    def _end_overdue(self, why: str) -> None:
        for number, worker in self._workers.items():
            self._kill(number, worker, why)

    def _kill(self, number: int, worker: WorkerHandle, why: str) -> None:
        _log.error("worker_killed", worker=number, pid=worker.process.pid, reason=why)
        worker.is_listening = False
        self._dispatcher.update()
        worker.kill()

    async def _watch(self) -> None:
        """Kill workers that do not answer: stopped ones, and those whose event loop hangs.

        Calls are counted, and not seconds: a supervisor that was stopped itself must not blame its workers.
        """
        seconds = self._settings.server.heartbeat_seconds
        while True:
            await asyncio.sleep(seconds / _PINGS)
            for number, worker in self._workers.items():
                worker.ping()
                most = _PINGS if worker.is_loaded else _PINGS * _LOADING_FACTOR
                if worker.unanswered == most + 1:
                    self._kill(number, worker, f"no answer in {most * seconds / _PINGS:g} s")

    async def _run_worker(self, number: int) -> None:
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
                self._remove(number)
                for client in worker.take_back():
                    self._dispatcher.hand_over(client)
                worker.close()
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

    async def _start(self, number: int) -> WorkerHandle:
        worker = self._workers[number] = await WorkerHandle.start(
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

    def _receive(self, worker: WorkerHandle) -> None:
        """Read what the worker has said so far."""
        try:
            for event in worker.receive():
                match event:
                    case "listening":
                        self._on_listening(worker)
                    case Loaded(models):
                        worker.is_loaded = True
                        _log.info("worker_loaded", pid=worker.process.pid)
                        self._on_loaded(models)
                    case "draining":
                        self._on_draining(worker)
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(worker.connection.fileno())

    def _on_listening(self, worker: WorkerHandle) -> None:
        worker.is_listening = True
        if not self._was_listening:
            self._was_listening = True
            log_listening(self._settings.server, self._sockets)
        self._dispatcher.update()

    def _on_loaded(self, models: Sequence[str]) -> None:
        is_all = sum(worker.is_loaded for worker in self._workers.values()) == self._count
        if is_all and self._not_all_loaded is not None:
            os.close(self._not_all_loaded)
            self._not_all_loaded = None
            announce(models, url_of(self._settings.server, self._sockets))

    def _on_draining(self, worker: WorkerHandle) -> None:
        """No more connections for it. The last one gets those that were made and not yet accepted."""
        if self._stopping.is_set() and self._dispatcher.listening_workers == [worker]:
            self._dispatcher.close()
        worker.is_listening = False
        worker.handover.close()
        self._dispatcher.update()

    def _remove(self, number: int) -> None:
        worker = self._workers.pop(number)
        asyncio.get_running_loop().remove_reader(worker.connection.fileno())
        self._dispatcher.update()


def run_workers(reader: ConfigurationReader, *, show_progress: bool) -> None:
    """Serve with `server.workers` processes until told to stop.

    Raises:
        CannotListen: the port is taken, or the address is not one of this machine's.
        ProviderError: a worker could not load any model when the service started; this is why.
    """
    sockets = listen(reader.settings.server)

    async def supervise() -> bool:
        return await Supervisor(reader, sockets, show_progress=show_progress).run()

    if not asyncio.run(supervise()):
        sys.exit(1)
