"""The head of an answer and what follows it are one write."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from provider.server.answers import AnswerWriter


class Wire(asyncio.Transport):
    """Remembers each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.writes.append(b"".join(list_of_data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(
    ("parts", "writes"),
    [
        ([b"head", b"body"], [b"headbody"]),
        ([b"head", b""], [b"head"]),
        ([b"head", b"a", b"", b"HTTP/1.1 100 a"], [b"heada", b"", b"HTTP/1.1 100 a"]),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", b"head", b"body"], [b"HTTP/1.1 100 Continue\r\n\r\n", b"headbody"]),
    ],
)
def test_a_head_goes_out_with_what_follows(parts: list[bytes], writes: list[bytes]) -> None:
    wire = Wire()
    writer = AnswerWriter(wire)
    for part in parts:
        writer.write(part)
    assert wire.writes == writes
    writer.close()
    assert writer.is_closing()
    assert wire.writes == writes


def test_a_head_that_nothing_follows_is_written_before_the_end() -> None:
    wire = Wire()
    writer = AnswerWriter(wire)
    writer.write(b"head")
    assert not wire.writes
    writer.close()
    assert wire.writes == [b"head"]
    assert wire.is_closed
