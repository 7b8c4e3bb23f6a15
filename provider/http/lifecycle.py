"""From the first request to the last: what is under way, how long callers may take, and the orderly end."""

from collections.abc import Callable

from provider.engine.engine import Engine
from provider.engine.hooks import Hook
from provider.http.budget import ByteBudget
from provider.http.deadlines import BodyDeadlines
from provider.http.limiter import RequestLimiter
from provider.settings import QueueSettings


class Lifecycle:
    """Admission and draining of one server. Used on the event loop's thread only.

    Attributes:
        requests: lets requests in.
        hooks: hear what happens.
        budget: what they hold in bytes.
        checks_unread: whether a request is refused before its body is read; with caching on, it may need no pass.
        deadlines: end requests whose body does not arrive.
        count_connections: open connections, as the server that runs the application counts them.
    """

    def __init__(self, engine: Engine, settings: QueueSettings, hooks: Hook) -> None:
        """Nothing is under way yet."""
        self._engine, self.hooks = engine, hooks
        self.requests = RequestLimiter(settings, hooks, seconds_inside=engine.least_wait_seconds)
        self.budget = ByteBudget(settings)
        self.checks_unread = not engine.is_caching
        self.deadlines = BodyDeadlines()
        self.count_connections: Callable[[], int] = lambda: 0

    @property
    def is_draining(self) -> bool:
        """Whether new requests are refused."""
        return self.requests.is_draining

    @property
    def waiting(self) -> int:
        """Requests that wait for room, their body unread."""
        return self.requests.waiting

    def drain(self) -> None:
        """From now on new requests are refused, and those that wait for room; accepted ones go on."""
        self.requests.drain()

    async def close(self) -> None:
        """End what still waits, and the engine."""
        self.drain()
        self.deadlines.end()
        await self._engine.close()
