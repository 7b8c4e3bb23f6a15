"""Messages between a run and the processes of its engines: pickles of our own classes, each behind its length."""

import asyncio
import pickle
import struct
from asyncio import StreamReader
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Literal

from attrs import frozen

from provider.bulk.embedder import Options
from provider.bulk.phrases import message
from provider.cores import Worker
from provider.errors import EmbeddingFailed, InvalidRequest, ProviderError, RequestError, SettingsError
from provider.settings import Settings
from provider.texts.records import Record

_LENGTH = struct.Struct("<Q")


@frozen
class Setup:
    """What the process is to load; see `EngineEmbedder.opened`."""

    settings: Settings
    options: Options
    prompt: str | None
    worker: Worker


@frozen
class Ready:
    """The attributes of its `EngineEmbedder`."""

    model: str
    fingerprint: str
    dimension: int
    facts: Mapping[str, object]
    about: Mapping[str, object]


@frozen
class Order:
    """A call.

    Attributes:
        number: of its reply.
        kind: `open`, `check` or `embed`.
        content: a `Setup`, or the records.
    """

    number: int
    kind: Literal["open", "check", "embed"]
    content: Setup | Sequence[Record]


@frozen
class ChildFailed:
    """What was raised, in the words of the command line."""

    kind: str
    text: str

    @classmethod
    def of(cls, exc: ProviderError) -> "ChildFailed":
        """From an error whose own class may not be sent."""
        kind = "settings" if isinstance(exc, SettingsError) else "request" if isinstance(exc, RequestError) else ""
        return cls(kind, message(exc))

    def error(self) -> ProviderError:
        """The same error, or one that is treated alike."""
        kinds: dict[str, type[ProviderError]] = {"settings": SettingsError, "request": InvalidRequest}
        return kinds.get(self.kind, EmbeddingFailed)(self.text)


@frozen
class Reply:
    """What came of an order: what the embedder returned, or a `ChildFailed`."""

    number: int
    content: Any


def frame(content: Order | Reply) -> bytes:
    """A message with its length."""
    body = pickle.dumps(content, protocol=5)
    return _LENGTH.pack(len(body)) + body


async def next_reply(stream: StreamReader) -> Reply | None:
    """The next one; None at the end."""
    try:
        (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
        reply: Reply = pickle.loads(await stream.readexactly(length))  # noqa: S301 - of our own process
    except asyncio.IncompleteReadError:
        return None
    return reply


def next_order(stream: BinaryIO) -> Order | None:
    """The next one; None at the end."""
    head = stream.read(_LENGTH.size)
    body = stream.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""
    order: Order | None = pickle.loads(body) if body else None  # noqa: S301 - of our own process
    return order
