"""Errors as OpenAI's envelope, on every path, framework errors included. One table says how each class is answered."""

from typing import Any

import structlog
from attrs import frozen
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from provider import errors
from provider.api.routes import EMBEDDINGS_PATHS, routes_text

INVALID = "invalid_request_error"
UNAVAILABLE = "service_unavailable_error"
SERVER = "server_error"

_log = structlog.get_logger("provider.api")


@frozen
class Answer:
    """How an error class is answered; `code` None leaves the error's own, if it has one."""

    status: int
    type: str
    code: str | None = None


TABLE: dict[type[errors.ProviderError], Answer] = {
    errors.ProviderError: Answer(500, SERVER),
    errors.SettingsError: Answer(500, SERVER),
    errors.RequestError: Answer(400, INVALID),
    errors.InvalidRequest: Answer(400, INVALID),
    errors.InvalidInput: Answer(400, INVALID),
    errors.MalformedJSON: Answer(400, INVALID),
    errors.UnsupportedContentType: Answer(400, INVALID, "unsupported_content_type"),
    errors.UnsupportedContentEncoding: Answer(400, INVALID, "unsupported_content_encoding"),
    errors.BodyTooLarge: Answer(413, SERVER),
    errors.MissingModel: Answer(400, INVALID),
    errors.ModelNotFound: Answer(404, INVALID, "model_not_found"),
    errors.InputTooLong: Answer(400, INVALID, "context_length_exceeded"),
    errors.CallerTooSlow: Answer(408, INVALID, "request_timeout"),
    errors.TooManyTokens: Answer(400, "max_tokens_per_request", "max_tokens_per_request"),
    errors.AuthenticationMissing: Answer(401, INVALID),
    errors.AuthenticationFailed: Answer(401, INVALID, "invalid_api_key"),
    errors.NotAvailable: Answer(503, UNAVAILABLE),
    errors.Overloaded: Answer(429, "tokens", "rate_limit_exceeded"),
    errors.ModelLoading: Answer(503, UNAVAILABLE, "model_loading"),
    errors.ModelFailed: Answer(503, UNAVAILABLE, "model_failed"),
    errors.ShuttingDown: Answer(503, UNAVAILABLE, "shutting_down"),
    # nginx's status for the same; only the log and the metrics ever see it.
    errors.CallerGone: Answer(499, INVALID, "caller_gone"),
    errors.EmbeddingFailed: Answer(500, SERVER, "embedding_failed"),
    errors.NonFiniteVector: Answer(500, SERVER, "non_finite_vector"),
    errors.ModelError: Answer(500, SERVER),
    errors.SourceNotFound: Answer(500, SERVER),
    errors.SourceUnreachable: Answer(500, SERVER),
    errors.AccessDenied: Answer(500, SERVER),
    errors.InvalidModel: Answer(500, SERVER),
    errors.BackendError: Answer(500, SERVER),
    errors.UnknownBackend: Answer(500, SERVER),
    errors.BackendUnavailable: Answer(500, SERVER),
    errors.VerificationFailed: Answer(500, SERVER),
    errors.ExportFailed: Answer(500, SERVER),
    errors.CannotListen: Answer(500, SERVER),
    errors.ServerFailed: Answer(500, SERVER),
    errors.ContenderFailed: Answer(500, SERVER),
}


def envelope(
    status: int,
    message: str,
    error_type: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response[dict[str, Any]]:
    """OpenAI's error body, all four keys present, and `detail`: the one key that Voyage's and Jina's clients read."""
    return Response(
        {"error": {"message": message, "type": error_type, "param": param, "code": code}, "detail": message},
        status_code=status,
        media_type=MediaType.JSON,
        headers=headers or {},
    )


def answer_provider_error(request: Request[Any, Any, Any], exc: errors.ProviderError) -> Response[dict[str, Any]]:
    """Answer one of our own errors by the table."""
    answer = next(TABLE[kind] for kind in type(exc).__mro__ if kind in TABLE)
    headers: dict[str, str] = {}
    if isinstance(exc, errors.NotAvailable):
        # Clients retry only with an integer below 60; NotAvailable keeps it in range.
        headers["retry-after"] = str(exc.retry_after_seconds)
    if answer.status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(exc, errors.NonFiniteVector):
        # The same input would give the same vector again.
        headers["x-should-retry"] = "false"
    if answer.status == 500:
        _log.error("request_failed", path=request.scope["path"], exc_info=exc)
    if isinstance(exc, errors.CallerTooSlow | errors.BodyTooLarge):
        # The rest of the body may still come; it belongs to no request any more.
        headers["connection"] = "close"
    message = exc.message if exc.public else _apology(request)
    code = answer.code or getattr(exc, "code", None)
    return envelope(answer.status, message, answer.type, param=getattr(exc, "param", None), code=code, headers=headers)


def answer_http_error(request: Request[Any, Any, Any], exc: HTTPException) -> Response[dict[str, Any]]:
    """Answer the framework's own errors: unknown path or method."""
    method, path = request.scope["method"], request.scope["path"]
    headers = {key.lower(): value for key, value in (exc.headers or {}).items()}
    if exc.status_code == 404:
        return envelope(404, f"Invalid URL ({method} {path}). {_right_url(request)}", INVALID, headers=headers)
    if exc.status_code == 405:
        hint = "(HINT: Perhaps you meant to use a different HTTP method?)"
        if "GET" in headers.get("allow", ""):
            headers["allow"] += ", HEAD"
        message = f"Not allowed to {method} on {path}. {hint} Allowed: {headers.get('allow', 'see /docs')}."
        return envelope(405, message, INVALID, code="method_not_supported", headers=headers)
    if exc.status_code >= 500:
        _log.error("request_failed", path=path, exc_info=exc)
        return envelope(exc.status_code, _apology(request), SERVER, headers=headers)
    # Whatever else the framework refuses is the request's fault: 400, because some clients retry 415 and 422.
    return envelope(400, str(exc.detail), INVALID, headers=headers)


def answer_anything(request: Request[Any, Any, Any], exc: Exception) -> Response[dict[str, Any]]:
    """Answer what nobody foresaw: the log gets all of it, the client an apology."""
    _log.error("request_failed", path=request.scope["path"], exc_info=exc)
    return envelope(500, _apology(request), SERVER)


HANDLERS: ExceptionHandlersMap = {
    errors.ProviderError: answer_provider_error,
    HTTPException: answer_http_error,
    Exception: answer_anything,
}


def _apology(request: Request[Any, Any, Any]) -> str:
    request_id = request.scope.get("state", {}).get("request_id", "")
    return (
        "The server had an error while processing your request. Sorry about that! "
        f"The log of the service has the reason under the request ID {request_id}."
    )


def _right_url(request: Request[Any, Any, Any]) -> str:
    try:
        base = str(request.base_url).rstrip("/")
    except ValueError:
        # The Host header is the client's and may be anything.
        base = "http://localhost:9000"
    path, routes = request.scope["path"], routes_text(request.app.state.settings)
    if "embedding" in path or request.scope["method"] == "POST":
        return (
            f"Embeddings are at POST {base}{EMBEDDINGS_PATHS[0]}: "
            f"with an OpenAI client set base_url to {base}/v1. {routes}"
        )
    return f"With an OpenAI client set base_url to {base}/v1. {routes}"
