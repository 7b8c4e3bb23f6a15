"""The supervisor's port: connections are accepted and handed to the workers in turn."""

import socket
from collections.abc import Callable, Iterator, Sequence

from provider.server.acceptor import Acceptor
from provider.server.handle import WorkerHandle


class Dispatcher:
    """Hands over each connection to the next worker. Everything happens on the event loop's thread."""

    def __init__(self, sockets: Sequence[socket.socket], workers: Callable[[], Sequence[WorkerHandle]]) -> None:
        """Nothing is accepted before `update`.

        Args:
            sockets: that listen; owned from here on.
            workers: those that are there now.
        """
        self._workers = workers
        self._acceptor = Acceptor(sockets, lambda client, _: self.hand_over(client))
        self._last = 0

    @property
    def listening_workers(self) -> list[WorkerHandle]:
        """The workers that can take a connection."""
        return [worker for worker in self._workers() if worker.is_listening]

    def update(self) -> None:
        """Accept while there is a worker for it; else connections wait in the kernel."""
        if self.listening_workers:
            self._acceptor.start()
        else:
            self._acceptor.pause()

    def close(self) -> None:
        """Close the port; connections that were made and not yet accepted are handed over first."""
        self._acceptor.close()

    def hand_over(self, client: socket.socket) -> None:
        """Give a connection, which ends here, to the next worker that takes it."""
        with client:
            for worker in self._in_turn():
                if worker.hand_over(client):
                    return

    def _in_turn(self) -> Iterator[WorkerHandle]:
        """Who is to take the next connection, and who if that one cannot: those that have loaded, if there are any."""
        workers = [worker for worker in self.listening_workers if worker.is_loaded] or self.listening_workers
        self._last += 1
        for i in range(len(workers)):
            yield workers[(self._last + i) % len(workers)]
