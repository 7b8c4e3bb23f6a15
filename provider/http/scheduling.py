"""What a request's headers ask of the scheduler: `x-priority`, a tier, and `x-request-timeout-ms`, a deadline."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from attrs import evolve
from litestar.types import Scope

from provider.domain import Tier
from provider.errors import DeadlineExceeded, InvalidRequest
from provider.http.auth import caller_of
from provider.http.body import Framing

_TIERS: dict[bytes, Tier] = {b"interactive": "interactive", b"bulk": "bulk"}
_MOST_MILLISECONDS = 86_400_000

T = TypeVar("T")


def read_wishes(scope: Scope, framing: Framing) -> None:
    """Put what the headers ask for into the request's state: its caller's tier, and `deadline` by the loop's clock.

    A caller whose key is of the bulk tier stays there.

    Raises:
        InvalidRequest: a header has another value than is allowed.
    """
    if framing.priority:
        tier = _TIERS.get(framing.priority.strip().lower())
        if tier is None:
            raise _invalid(header="x-priority", value=framing.priority, allowed="interactive or bulk")
        caller = caller_of(scope)
        if caller.tier != "bulk":
            scope["state"]["caller"] = evolve(caller, tier=tier)
    if framing.timeout_ms:
        digits = framing.timeout_ms.strip()
        milliseconds = int(digits) if digits.isdigit() and len(digits) <= 8 else 0
        if not 1 <= milliseconds <= _MOST_MILLISECONDS:
            allowed = f"a number from 1 to {_MOST_MILLISECONDS}"
            raise _invalid(header="x-request-timeout-ms", value=framing.timeout_ms, allowed=allowed)
        scope["state"]["deadline"] = asyncio.get_running_loop().time() + milliseconds / 1000


async def in_time(deadline: float, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled at `deadline`.

    Raises:
        DeadlineExceeded: it took longer.
    """
    timeout = asyncio.timeout_at(deadline)
    try:
        async with timeout:
            return await work
    except TimeoutError as exc:
        if not timeout.expired():
            raise
        msg = "The answer was not ready within the time that x-request-timeout-ms allows; the work was dropped."
        raise DeadlineExceeded(msg) from exc


def _invalid(*, header: str, value: bytes, allowed: str) -> InvalidRequest:
    shown = value.decode("latin-1")[:100]
    return InvalidRequest(f"Invalid '{header}': got {shown!r}, expected {allowed}.", param=header, code="invalid_value")
