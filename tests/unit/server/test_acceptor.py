"""Connections are accepted until the port is closed, and none that was made is lost."""

import asyncio
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from waiting import PATIENCE_SECONDS

from provider.server.acceptor import Acceptor


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        yield opened


async def test_connections_that_were_made_before_the_end_are_all_taken(listening: socket.socket) -> None:
    taken: list[socket.socket] = []
    acceptor = Acceptor([listening], lambda client, _: taken.append(client))
    address = listening.getsockname()
    clients = [socket.create_connection(address, 10) for _ in range(50)]
    acceptor.close()
    assert len(taken) == 50
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, 10)
    for each in clients + taken:
        each.close()


async def test_a_shortage_of_descriptors_is_one_line_and_passes() -> None:
    class Short(socket.socket):
        refusals = 3

        def accept(self) -> tuple[socket.socket, object]:
            if self.refusals:
                self.refusals -= 1
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    taken = asyncio.Event()
    with Short() as listening, structlog.testing.capture_logs() as lines:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def take(client: socket.socket, _: socket.socket) -> None:
            client.close()
            taken.set()

        acceptor = Acceptor([listening], take)
        acceptor.start()
        with socket.create_connection(listening.getsockname(), 10):
            await asyncio.wait_for(taken.wait(), PATIENCE_SECONDS)
        acceptor.close()
    assert [line["event"] for line in lines] == ["cannot_accept", "accepting_again"]


@pytest.mark.parametrize("is_taken_over", [True, False])
async def test_a_socket_file_that_another_process_has_taken_over_stays(tmp_path: Path, is_taken_over: bool) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as old, socket.socket(socket.AF_UNIX) as new:
        old.bind(str(path))
        old.listen()
        acceptor = Acceptor([old], lambda client, _: client.close())
        if is_taken_over:
            path.unlink()
            new.bind(str(path))
        acceptor.close()
    assert path.exists() == is_taken_over
