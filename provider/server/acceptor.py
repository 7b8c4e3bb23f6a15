"""Listening sockets: connections are accepted as they come, until the last that was made before the end."""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

_log = structlog.get_logger("provider.server")

# Without a file descriptor left, a connection cannot be accepted, and asking again at once only burns the CPU.
_SHORTAGE_SECONDS = 1.0


class Acceptor:
    """Accepts connections while it is told to; else they wait in the kernel. Used on the event loop's thread only."""

    def __init__(self, sockets: Sequence[socket.socket], take: Callable[[socket.socket, socket.socket], None]) -> None:
        """Nothing is accepted before `start`.

        Args:
            sockets: that listen; owned from here on.
            take: called with each new connection and the socket that it came through; owns the former.
        """
        self._sockets, self._take = sockets, take
        self._is_accepting = self._is_short = False
        self._files: dict[Path, os.stat_result] = {}
        for each in sockets:
            each.settimeout(0)
            if each.family == socket.AF_UNIX:
                path = Path(each.getsockname())
                with contextlib.suppress(OSError):
                    self._files[path] = path.stat()
        _raise_descriptor_limit()

    def start(self) -> None:
        """Accept from now on."""
        if not self._is_accepting:
            self._is_accepting = True
            for each in self._sockets:
                asyncio.get_running_loop().add_reader(each, self._accept, each)

    def pause(self) -> None:
        """Accept no more until `start`."""
        self._is_accepting = False
        for each in self._sockets:
            asyncio.get_running_loop().remove_reader(each)

    def close(self) -> None:
        """Close the port; connections that were made and not yet accepted are taken first."""
        self.pause()
        for each in self._sockets:
            # The kernel makes no more than one further connection, so that the line below comes to an end.
            each.listen(0)
            self._accept(each)
        for path, ours in self._files.items():
            # A service that has taken the path over keeps its file. Ours has its inode to itself until it is closed.
            with contextlib.suppress(OSError):
                if os.path.samestat(ours, path.stat()):
                    path.unlink()
        for each in self._sockets:
            each.close()
        self._sockets = ()

    def _accept(self, listening: socket.socket) -> None:
        try:
            while True:
                try:
                    client, _ = listening.accept()
                except ConnectionAbortedError:
                    continue
                self._take(client, listening)
                if self._is_short:
                    self._is_short = False
                    _log.info("accepting_again")
        except BlockingIOError:
            pass
        except OSError as exc:
            if not self._is_short:
                self._is_short = True
                _log.error("cannot_accept", reason=exc.strerror)
            if self._is_accepting:
                self.pause()
                asyncio.get_running_loop().call_later(_SHORTAGE_SECONDS, self.start)


def _raise_descriptor_limit() -> None:
    """Use as many file descriptors as the system allows: the usual 1,024 are fewer than the connections we take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
