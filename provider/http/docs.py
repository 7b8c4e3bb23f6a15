"""The page that shows the API, and the document behind it. All links are relative: a path prefix does no harm."""

import importlib.util
from pathlib import Path
from typing import Any

from litestar import Litestar, Request, Response, Router, get
from litestar.enums import OpenAPIMediaType
from litestar.exceptions import NotFoundException
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.params import FromPath
from litestar.serialization import encode_json

from provider.http.auth import RequireKey
from provider.http.routes import ALIASES, DOCS_ASSETS_PATH, DOCS_PATH, DOCUMENTED_AS, OPENAPI_PATH

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>emb-provider</title>
    <link rel="icon" href="data:,">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <link rel="stylesheet" href="{up}docs-assets/swagger-ui.css">
    <script src="{up}docs-assets/swagger-ui-bundle.js"></script>
  </head>
  <body>
    <div id="page"></div>
    <script>
      SwaggerUIBundle({{url: "{up}openapi.json", dom_id: "#page", deepLinking: true}});
    </script>
  </body>
</html>
"""
_ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}
_JSON = OpenAPIMediaType.OPENAPI_JSON
_OPT = {"protected": "docs"}


class _Page(OpenAPIRenderPlugin):
    """Swagger UI."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002 - Litestar's
        """The page. Its links depend on the address asked for: a browser resolves them from the last slash."""
        is_folder = request.scope["raw_path"].endswith(b"/")
        return _PAGE.format(up="../" if is_folder else "").encode()


class _Document(OpenAPIRenderPlugin):
    """The document below the page's path."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """As JSON."""
        return _document(request.app, openapi_schema, server="..")


def docs_plugins() -> list[OpenAPIRenderPlugin]:
    """What is served below `DOCS_PATH`."""
    return [_Page(path="/"), _Document(path=OPENAPI_PATH, media_type=_JSON)]


def docs_router() -> Router:
    """The router that Litestar puts them into."""
    return Router(
        DOCS_PATH,
        route_handlers=[],
        include_in_schema=False,
        after_request=_refuse_unknown_pages,
        middleware=[RequireKey],
        opt=_OPT,
    )


def _refuse_unknown_pages(response: Response[Any]) -> Response[Any]:
    """Litestar answers unknown paths below the documentation with a page of its own; here every error is OpenAI's."""
    if response.status_code == 404:
        raise NotFoundException
    return response


@get(OPENAPI_PATH, include_in_schema=False, media_type=_JSON, sync_to_thread=False, middleware=[RequireKey], opt=_OPT)
def openapi_document(request: Request[Any, Any, Any]) -> bytes:
    """The document where most tools look for it."""
    return _document(request.app, request.app.openapi_schema.to_schema(), server=".")


@get(f"{DOCS_ASSETS_PATH}/{{name:str}}", include_in_schema=False, sync_to_thread=True)
def docs_assets(name: FromPath[str]) -> Response[bytes]:
    """Swagger UI's files from the installed package: the page works without internet."""
    found = importlib.util.find_spec("swagger_ui")
    if name not in _ASSETS or found is None or found.origin is None:
        raise NotFoundException
    content = (Path(found.origin).parent / "static" / name).read_bytes()
    return Response(content, media_type=_ASSETS[name], headers={"cache-control": "max-age=3600"})


def _document(app: Litestar, schema: dict[str, Any], *, server: str) -> bytes:
    """As JSON, without aliases of paths, and without keys where none are needed.

    Args:
        app: the application, whose keys decide.
        schema: what Litestar made of its routes.
        server: the API's place, relative to the document's own.
    """
    paths = {DOCUMENTED_AS.get(path, path): item for path, item in schema["paths"].items() if path not in ALIASES}
    shown = schema | {"servers": [{"url": server}], "paths": paths}
    if not app.state.key_ring.is_on:
        shown["components"] = {key: value for key, value in schema["components"].items() if key != "securitySchemes"}
        shown["paths"] = {
            path: {
                method: {key: value for key, value in operation.items() if key != "security"}
                for method, operation in item.items()
            }
            for path, item in paths.items()
        }
    return encode_json(shown)
