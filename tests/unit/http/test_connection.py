"""Work ends with its caller's connection, and with nothing else."""

import asyncio
from typing import Any

import pytest

from provider.errors import CallerGone
from provider.http.connection import while_connected


class Caller:
    """A connection that closes when told to."""

    def __init__(self) -> None:
        self.left, self.scope = asyncio.Event(), {"state": dict[str, Any]()}
        self.watchers = 0

    async def receive(self) -> dict[str, Any]:
        self.watchers += 1
        try:
            await self.left.wait()
            return {"type": "http.disconnect"}
        finally:
            self.watchers -= 1


async def test_the_result_is_given_and_nobody_watches_any_more() -> None:
    caller: Any = Caller()

    async def work() -> int:
        while not caller.watchers:  # noqa: ASYNC110 - there is no event for this
            await asyncio.sleep(0)
        return 7

    assert await asyncio.wait_for(while_connected(caller, work()), 10) == 7
    await asyncio.sleep(0)
    assert not caller.watchers


async def test_work_is_cancelled_when_the_caller_leaves() -> None:
    caller: Any = Caller()
    ended = False

    async def work() -> None:
        nonlocal ended
        caller.left.set()
        try:
            await asyncio.sleep(10)
        finally:
            ended = True

    with pytest.raises(CallerGone):
        await asyncio.wait_for(while_connected(caller, work()), 20)
    assert ended


async def test_another_cancellation_is_passed_on() -> None:
    caller: Any = Caller()
    waiting = asyncio.create_task(while_connected(caller, asyncio.sleep(10)))
    while not caller.watchers:  # noqa: ASYNC110
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_cancellation_at_the_same_moment_is_passed_on() -> None:
    caller: Any = Caller()
    waiting = asyncio.create_task(while_connected(caller, asyncio.sleep(10)))
    while not caller.watchers:  # noqa: ASYNC110
        await asyncio.sleep(0)
    caller.left.set()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_an_error_of_the_work_is_its_own() -> None:
    caller: Any = Caller()

    async def work() -> None:
        msg = "broken"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="broken"):
        await while_connected(caller, work())
