"""HEAD wherever GET is: the same status and headers, without the body."""

from collections.abc import Awaitable

from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send


class AnswersHead:
    """ASGI wrapper around the application, which has routes for GET only."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap `app`."""
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """ASGI."""
        if scope["type"] == ScopeType.HTTP and scope["method"] == "HEAD":
            return self._as_get(scope, receive, send)
        return self._app(scope, receive, send)

    async def _as_get(self, request: HTTPScope, receive: Receive, send: Send) -> None:
        async def send_without_body(message: Message) -> None:
            # Outside of this wrapper the request stays HEAD, so that the server accepts a length without a body.
            request["method"] = "HEAD"
            if message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        request["method"] = "GET"
        try:
            await self._app(request, receive, send_without_body)
        finally:
            request["method"] = "HEAD"
