"""Admission to the routes that embed: before the body is read, until the last byte of the answer is sent."""

from litestar.types import ASGIApp, Receive, Scope, Send

from provider.api.body import Framing
from provider.engine.service import EmbeddingService


class Admission:
    """ASGI middleware of a route.

    A handler ends when its answer begins to be sent; a client that reads slowly, or not at all, keeps the answer in
    memory for longer than that.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the route `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI; raises as `RequestLimiter.admission`."""
        state = scope["litestar_app"].state
        service: EmbeddingService = state.service
        limit: int = state.settings.server.max_body_bytes
        async with service.requests.admission(Framing.of(scope["headers"]).most_bytes(limit)):
            await self._app(scope, receive, send)
