"""Requests that wait for their turn, and what their clients do meanwhile."""

import asyncio
import gc
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import PATIENCE_SECONDS, until

from provider.errors import CallerGone, DeadlineExceeded, Overloaded
from provider.http.admission import Admission
from provider.http.budget import ByteBudget
from provider.http.limiter import RequestLimiter
from provider.settings import QueueSettings


class Client:
    """A client whose body is in these parts, and which then stays, or leaves."""

    def __init__(self, *parts: bytes) -> None:
        self._messages: list[Any] = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        self._messages[-1]["more_body"] = False
        self.leaves, self.watches = asyncio.Event(), 0

    async def receive(self) -> Any:
        if self._messages:
            return self._messages.pop(0)
        self.watches += 1
        try:
            await self.leaves.wait()
        finally:
            self.watches -= 1
        return {"type": "http.disconnect"}


class Door:
    """The only place, which is taken, and a request that waits for it: its application reads so many messages."""

    def __init__(self, client: Client, reads: int = 1, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        settings = QueueSettings(max_requests=1)
        self.limiter = RequestLimiter(settings, lambda _: None)
        self.bodies: list[bytes] = []

        async def app(_scope: Any, receive: Any, _send: Any) -> None:
            for _ in range(reads):
                self.bodies.append((await receive())["body"])
            msg = "no room for its tokens"
            raise Overloaded(msg)

        state = {"lifecycle": SimpleNamespace(requests=self.limiter, budget=ByteBudget(settings), checks_unread=False)}
        scope: Any = {"litestar_app": SimpleNamespace(state=state), "state": {}, "headers": headers}
        self._request = Admission(app)(scope, client.receive, lambda _: None)  # type: ignore[arg-type, return-value]

    async def come(self) -> "asyncio.Task[Any]":
        """The request waits by the time this returns."""
        self._started = await self.limiter.enter(SimpleNamespace())  # type: ignore[arg-type]
        task = asyncio.ensure_future(self._request)
        await until(lambda: self.limiter.waiting == 1)
        return task  # type: ignore[return-value]

    def open(self) -> None:
        self.limiter.leave(self._started)


@pytest.mark.parametrize("parts", [(b"all",), (b"one", b"two", b"three")])
async def test_nobody_watches_a_client_whose_request_is_over(parts: tuple[bytes, ...]) -> None:
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    client = Client(*parts)
    at = Door(client, reads=len(parts))
    request = await at.come()
    at.open()
    with pytest.raises(Overloaded):
        await asyncio.wait_for(request, PATIENCE_SECONDS)
    assert at.bodies == [*parts]
    # As uvicorn tells everyone who still reads when the answer is complete.
    client.leaves.set()
    await until(lambda: not client.watches)
    del request, at
    gc.collect()
    assert problems == []


async def test_a_request_s_own_deadline_ends_its_wait_and_takes_no_place() -> None:
    at = Door(Client(b"all"), headers=[(b"x-request-timeout-ms", b"50")])
    request = await at.come()
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(request, PATIENCE_SECONDS)
    assert (at.limiter.waiting, at.bodies) == (0, [])
    at.open()
    assert at.limiter.active == 0


async def test_a_client_that_leaves_while_it_waits_gives_up_its_turn() -> None:
    client = Client(b"all")
    at = Door(client)
    request = await at.come()
    client.leaves.set()
    with pytest.raises(CallerGone):
        await asyncio.wait_for(request, PATIENCE_SECONDS)
    assert at.limiter.waiting == 0
    at.open()
    assert at.limiter.active == 0
