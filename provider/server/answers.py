"""Where an answer is written to."""

import asyncio


class AnswerWriter:
    """Stands for the transport of one answer, whose head goes out together with what follows it.

    Each write is a system call and wakes the client, whom a head alone does not help.
    """

    __slots__ = ("_has_head", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        """Nothing is written yet."""
        self._transport, self._head, self._has_head = transport, b"", False

    def write(self, data: bytes) -> None:
        """Called by uvicorn: once with the head, and at least once afterwards; before it perhaps to let a body come."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines([head, data])
        elif self._has_head or data.startswith(b"HTTP/1.1 100 "):
            self._transport.write(data)
        else:
            self._head, self._has_head = data, True

    def is_closing(self) -> bool:
        """Whether the client is gone, or to go."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Write what is left, and close the connection."""
        if self._head:
            self._transport.write(self._head)
        self._transport.close()
