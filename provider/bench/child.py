"""One contender's child process: orders on standard input, replies on standard output, one JSON document a line."""

import asyncio
import os
import sys
from typing import BinaryIO, Protocol, runtime_checkable

import msgspec
import uvloop

from provider.bench.messages import (
    Compute,
    Computed,
    Count,
    Counted,
    EngineSetup,
    Failed,
    Order,
    Outcome,
    Ready,
    Reply,
    ServerSetup,
    Setup,
    Slice,
)
from provider.errors import ProviderError


class SystemUnderTest(Protocol):
    """What is measured; made by the `open` of `OpenAIServer`, `InProcessEngine` or `Library`.

    Attributes:
        facts: what is shown of it.
    """

    facts: dict[str, object]

    async def count(self, texts: tuple[str, ...]) -> int:
        """Tokens of `texts` together."""
        ...

    async def run(self, order: Slice) -> Outcome:
        """Bear a slice of load."""
        ...

    async def close(self) -> None:
        """Free what it holds."""
        ...


@runtime_checkable
class Computes(Protocol):
    """What an engine has besides."""

    async def compute(self, texts: tuple[str, ...]) -> list[list[float]]:
        """For each of `texts` its vector, or its scores."""
        ...


async def work(orders: BinaryIO, replies: BinaryIO) -> None:
    """The first line is the setup, every further one an order; ends with the input, or with a failure told."""

    def reply(message: Reply) -> None:
        replies.write(msgspec.json.encode(message) + b"\n")
        replies.flush()

    system: SystemUnderTest | None = None
    try:
        system = await _open(msgspec.json.decode(orders.readline(), type=Setup))
        reply(Ready(system.facts))
        while line := await asyncio.to_thread(orders.readline):
            order: Order = msgspec.json.decode(line, type=Order)
            if isinstance(order, Count):
                reply(Counted(await system.count(order.texts)))
            elif isinstance(order, Compute):
                assert isinstance(system, Computes), "only an engine is asked for outputs"  # noqa: S101
                reply(Computed(await system.compute(order.texts)))
            else:
                reply(await system.run(order))
    except ProviderError as exc:
        reply(Failed(exc.message))
    finally:
        if system is not None:
            await system.close()


async def _open(setup: Setup) -> SystemUnderTest:
    # Each brings what the others can do without: a load generator has no engine around it.
    if isinstance(setup, ServerSetup):
        from provider.bench.server import OpenAIServer  # noqa: PLC0415

        return await OpenAIServer.open(setup)
    if isinstance(setup, EngineSetup):
        from provider.bench.engine import InProcessEngine  # noqa: PLC0415

        return await InProcessEngine.open(setup)
    from provider.bench.library import Library  # noqa: PLC0415

    return await Library.open(setup)


def main() -> None:
    """Run until the input ends. What libraries print goes to standard error: replies have the output for themselves."""
    with os.fdopen(os.dup(1), "wb") as replies:
        os.dup2(2, 1)
        uvloop.run(work(sys.stdin.buffer, replies))


if __name__ == "__main__":
    main()
