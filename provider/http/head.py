"""HEAD wherever GET is: the same status and headers, without the body. OPTIONS tells all methods of a path."""

from collections.abc import Awaitable, Iterable

from litestar.enums import ScopeType
from litestar.routes import BaseRoute, HTTPRoute
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send


class AnswersHead:
    """ASGI wrapper around the application, which has routes for GET only."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        """Wrap `app`, which has these `routes`."""
        self._app = app
        self._methods = {each.path_format: each.methods for each in routes if isinstance(each, HTTPRoute)}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """ASGI."""
        if scope["type"] == ScopeType.HTTP and scope["method"] == "HEAD":
            return self._as_get(scope, receive, send)
        if scope["type"] == ScopeType.HTTP and scope["method"] == "OPTIONS":
            return self._as_options(scope, receive, send)
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

    async def _as_options(self, request: HTTPScope, receive: Receive, send: Send) -> None:
        async def send_with_all_methods(message: Message) -> None:
            # Litestar tells the methods of one handler only, where a path has several.
            methods = self._methods.get(request.get("path_template", ""))
            if message["type"] == "http.response.start" and message["status"] == 204 and methods:
                every = sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
                allow = (b"allow", ", ".join(every).encode())
                message["headers"] = [
                    allow if name == b"allow" else (name, value) for name, value in message["headers"]
                ]
            await send(message)

        await self._app(request, receive, send_with_all_methods)
