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
from asyncio.subprocess import Process
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Self

import structlog
from attrs import define

from provider.cli.server import listen, log_listening
from provider.cli.worker import Assignment
from provider.domain import Worker
from provider.errors import ProviderError
from provider.settings import Settings

_log = structlog.get_logger("provider.workers")

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
# A worker that lived for so long did not die of its start.
_STEADY_SECONDS = 60.0
# Without a file descriptor left, a connection cannot be accepted, and asking again at once only burns the CPU.
_SHORTAGE_SECONDS = 1.0
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


@define(eq=False)
class WorkerProcess:
    """A worker as its supervisor sees it.

    Attributes:
        connection: for orders and news; see `provider.cli.worker`.
        handover: where its connections go.
        failure: why it could not start, once it has said so.
    """

    process: Process
    connection: "Connection[Any, Any]"
    handover: socket.socket
    is_listening: bool = False
    is_loaded: bool = False
    failure: ProviderError | None = None

    @classmethod
    async def start(cls, settings: Settings, worker: Worker, *, show_progress: bool) -> Self:
        """Start the process and tell it what to do."""
        ours, theirs = Pipe()
        handover, other_end = socket.socketpair(socket.AF_UNIX)
        with theirs, other_end:
            # The working directory is no place to import from; PYTHONPATH still holds.
            command = (sys.executable, "-P", "-m", "provider.cli.worker", str(theirs.fileno()))
            with _without_interrupts():
                process = await asyncio.create_subprocess_exec(*command, pass_fds=(theirs.fileno(), other_end.fileno()))
            ours.send(Assignment(settings, worker, other_end.fileno(), show_progress))
        handover.settimeout(0)
        return cls(process, ours, handover)

    def end(self, reason: str) -> None:
        """Ask it to finish what it accepted and to end. It may be gone already."""
        with contextlib.suppress(OSError):
            self.connection.send(reason)

    def hand_over(self, client: socket.socket) -> bool:
        """Give it a connection; False if it cannot take one: it is gone, or hangs and has many waiting already."""
        try:
            socket.send_fds(self.handover, [b"c"], [client.fileno()])
        except OSError:
            return False
        return True

    def close(self) -> None:
        """When it has ended."""
        self.connection.close()
        self.handover.close()


class Supervisor:
    """The workers of one service. Everything happens on the event loop's thread."""

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket], *, show_progress: bool) -> None:
        """Nothing starts before `run`."""
        self._settings, self._sockets, self._show_progress = settings, sockets, show_progress
        self._count = settings.server.workers
        self._workers: dict[int, WorkerProcess] = {}
        self._last = 0
        self._stopping = asyncio.Event()
        self._reason = ""
        self._is_open = self._is_accepting = self._was_complete = False
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
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        for each in self._sockets:
            each.settimeout(0)
        await asyncio.gather(*(self._keep(number) for number in range(self._count)))
        if self._failure is not None:
            raise self._failure
        return self._is_clean

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stopping.is_set():
            for worker in self._workers.values():
                with contextlib.suppress(ProcessLookupError):
                    worker.process.kill()
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
                self._hear(worker)
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
            # One bar is enough: the others wait for the same files.
            show_progress=self._show_progress and number == 0,
        )
        _log.info("worker_started", worker=number, pid=worker.process.pid)
        asyncio.get_running_loop().add_reader(worker.connection.fileno(), self._hear, worker)
        if self._stopping.is_set():
            worker.end(self._reason)
        return worker

    def _hear(self, worker: WorkerProcess) -> None:
        """Read what the worker has said so far."""
        try:
            while worker.connection.poll():
                match worker.connection.recv():
                    case "listening":
                        worker.is_listening = True
                        self._open_port()
                    case "loaded":
                        worker.is_loaded = True
                        self._was_complete |= len(self._takers(is_loaded=True)) == self._count
                    case "leaving":
                        self._leave(worker)
                    case ProviderError() as failure:
                        worker.failure = failure
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(worker.connection.fileno())

    def _leave(self, worker: WorkerProcess) -> None:
        """No more connections for it. The last one gets those that were made and not yet accepted."""
        if self._stopping.is_set() and self._takers() == [worker]:
            self._close_port()
        worker.is_listening = False
        worker.handover.close()
        self._accept_if_possible()

    def _forget(self, number: int) -> None:
        worker = self._workers.pop(number)
        asyncio.get_running_loop().remove_reader(worker.connection.fileno())
        worker.close()
        self._accept_if_possible()

    # ------------------------------------------------------------------------------------------------- connections

    def _takers(self, *, is_loaded: bool | None = None) -> list[WorkerProcess]:
        return [
            worker
            for worker in self._workers.values()
            if worker.is_listening and (is_loaded is None or worker.is_loaded == is_loaded)
        ]

    def _open_port(self) -> None:
        """Somebody is there to answer."""
        if not self._is_open:
            self._is_open = True
            log_listening(self._settings.server, self._sockets)
        self._accept_if_possible()

    def _accept_if_possible(self) -> None:
        """Accept while there is a worker for it; else connections wait in the kernel."""
        loop, can_accept = asyncio.get_running_loop(), bool(self._takers())
        if can_accept == self._is_accepting:
            return
        self._is_accepting = can_accept
        for each in self._sockets:
            if can_accept:
                loop.add_reader(each, self._accept, each)
            else:
                loop.remove_reader(each)

    def _accept(self, listening: socket.socket) -> None:
        """Accept what is there and hand it over, each connection to the next worker."""
        try:
            while True:
                client, _ = listening.accept()
                with client:
                    self._hand_over(client)
        except (BlockingIOError, ConnectionAbortedError):
            pass
        except OSError as exc:
            _log.error("cannot_accept", reason=exc.strerror)
            loop = asyncio.get_running_loop()
            loop.remove_reader(listening)
            self._is_accepting = False
            loop.call_later(_SHORTAGE_SECONDS, self._accept_if_possible)

    def _hand_over(self, client: socket.socket) -> None:
        for worker in self._in_turn():
            if worker.hand_over(client):
                return

    def _in_turn(self) -> Iterator[WorkerProcess]:
        """Who is to take the next connection, and who if that one cannot.

        When the service starts, those that still load, so that readiness is red until all are ready. Later those that
        have loaded: a worker that was started again has nothing to offer before.
        """
        takers = self._takers(is_loaded=self._was_complete) or self._takers()
        self._last += 1
        for i in range(len(takers)):
            yield takers[(self._last + i) % len(takers)]

    def _close_port(self) -> None:
        for each in self._sockets:
            asyncio.get_running_loop().remove_reader(each)
            self._accept(each)
            each.close()
        self._sockets = ()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Around starting a process: Ctrl-C waits, in the new process too until it has said what it does with it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


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
