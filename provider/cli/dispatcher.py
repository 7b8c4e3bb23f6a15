"""The supervisor's port: connections are accepted and handed to the workers in turn."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence

import structlog

from provider.cli.worker_process import WorkerProcess

_log = structlog.get_logger("provider.workers")

# Without a file descriptor left, a connection cannot be accepted, and asking again at once only burns the CPU.
_SHORTAGE_SECONDS = 1.0


class Dispatcher:
    """Hands over each connection to the next worker. Everything happens on the event loop's thread."""

    def __init__(self, sockets: Sequence[socket.socket], workers: Callable[[], Sequence[WorkerProcess]]) -> None:
        """Nothing is accepted before `update`.

        Args:
            sockets: that listen; owned from here on.
            workers: those that are there now.
        """
        self._sockets, self._workers = sockets, workers
        self._last = 0
        self._is_accepting = False
        for each in sockets:
            each.settimeout(0)

    @property
    def listening_workers(self) -> list[WorkerProcess]:
        """The workers that can take a connection."""
        return [worker for worker in self._workers() if worker.is_listening]

    def update(self) -> None:
        """Accept while there is a worker for it; else connections wait in the kernel."""
        loop, can_accept = asyncio.get_running_loop(), bool(self.listening_workers)
        if can_accept == self._is_accepting:
            return
        self._is_accepting = can_accept
        for each in self._sockets:
            if can_accept:
                loop.add_reader(each, self._accept, each)
            else:
                loop.remove_reader(each)

    def close(self) -> None:
        """Close the port; connections that were made and not yet accepted are handed over first."""
        for each in self._sockets:
            asyncio.get_running_loop().remove_reader(each)
            self._accept(each)
            each.close()
        self._sockets = ()

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
            loop.call_later(_SHORTAGE_SECONDS, self.update)

    def _hand_over(self, client: socket.socket) -> None:
        for worker in self._in_turn():
            if worker.hand_over(client):
                return

    def _in_turn(self) -> Iterator[WorkerProcess]:
        """Who is to take the next connection, and who if that one cannot: those that have loaded, if there are any."""
        workers = [worker for worker in self.listening_workers if worker.is_loaded] or self.listening_workers
        self._last += 1
        for i in range(len(workers)):
            yield workers[(self._last + i) % len(workers)]
