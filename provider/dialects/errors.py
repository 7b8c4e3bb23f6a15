"""Errors on every path, framework errors included: a table has each class's status, the path's dialect its body."""

from collections.abc import Mapping
from typing import Any

import orjson
import structlog
from attrs import frozen
from litestar import Request
from litestar.exceptions import HTTPException
from litestar.types import ExceptionHandlersMap

from provider import errors
from provider.dialects.dialect import Dialect, Failure
from provider.dialects.phrases import FieldNames, Phrase, apology, phrase
from provider.dialects.registry import Dialects
from provider.http.addresses import wrong_port
from provider.http.exchange import WrittenResponse
from provider.http.routes import EMBEDDINGS_PATHS, RERANK_PATHS, routes_text

INVALID = "invalid_request_error"
UNAVAILABLE = "service_unavailable_error"
SERVER = "server_error"
QUOTA = "insufficient_quota"

_NAMES = FieldNames()

_log = structlog.get_logger("provider.http")


@frozen
class Answer:
    """How an error class is answered."""

    status: int
    type: str
    code: str | None = None


TABLE: dict[type[errors.ProviderError], Answer] = {
    errors.ProviderError: Answer(500, SERVER),
    errors.SettingsError: Answer(500, SERVER),
    errors.RequestError: Answer(400, INVALID),
    # Its code is its own.
    errors.InvalidRequest: Answer(400, INVALID),
    errors.MissingModel: Answer(400, INVALID),
    errors.MalformedJSON: Answer(400, INVALID),
    errors.UnsupportedContentType: Answer(400, INVALID, "unsupported_content_type"),
    errors.UnsupportedContentEncoding: Answer(400, INVALID, "unsupported_content_encoding"),
    errors.BodyTooLarge: Answer(413, SERVER),
    errors.ScopeMissing: Answer(403, INVALID, "missing_scope"),
    errors.ModelForbidden: Answer(403, INVALID, "model_not_found"),
    errors.RequestRateExceeded: Answer(429, "requests", "rate_limit_exceeded"),
    errors.TokenRateExceeded: Answer(429, "tokens", "rate_limit_exceeded"),
    errors.LimitExceeded: Answer(429, QUOTA, QUOTA),
    errors.QuotaExceeded: Answer(429, QUOTA, QUOTA),
    errors.ModelNotFound: Answer(404, INVALID, "model_not_found"),
    errors.PromptNotFound: Answer(404, INVALID, "model_not_found"),
    errors.OutputNotSupported: Answer(400, INVALID, "output_not_supported"),
    errors.SeveralLabels: Answer(400, INVALID, "output_not_supported"),
    errors.InvalidInput: Answer(400, INVALID, "invalid_value"),
    errors.TooManyCharacters: Answer(400, INVALID, "string_above_max_length"),
    errors.InputTooLong: Answer(400, INVALID, "context_length_exceeded"),
    errors.TokenIdsNotAccepted: Answer(400, INVALID, "token_input_not_supported"),
    errors.InvalidOption: Answer(400, INVALID, "invalid_value"),
    errors.InvalidDimensions: Answer(400, INVALID, "invalid_value"),
    errors.UnknownPrompt: Answer(400, INVALID, "invalid_value"),
    errors.UnknownInputType: Answer(400, INVALID, "invalid_value"),
    errors.MissingInputType: Answer(400, INVALID, "missing_required_parameter"),
    errors.PromptTooLong: Answer(400, INVALID, "string_above_max_length"),
    errors.CallerTooSlow: Answer(408, INVALID, "request_timeout"),
    errors.TooManyTokens: Answer(400, "max_tokens_per_request", "max_tokens_per_request"),
    errors.ObjectNotFound: Answer(404, INVALID, "not_found"),
    errors.RangeNotSatisfiable: Answer(416, INVALID, "range_not_satisfiable"),
    errors.JobsOff: Answer(404, INVALID, "batches_off"),
    errors.FileTooLarge: Answer(413, INVALID, "file_too_large"),
    errors.StorageFull: Answer(507, SERVER, "storage_full"),
    errors.HostNotAllowed: Answer(403, INVALID, "host_not_allowed"),
    errors.AuthenticationMissing: Answer(401, INVALID),
    errors.AuthenticationFailed: Answer(401, INVALID, "invalid_api_key"),
    errors.NotAvailable: Answer(503, UNAVAILABLE),
    errors.Overloaded: Answer(429, "tokens", "rate_limit_exceeded"),
    errors.TooManyRequests: Answer(429, "requests", "rate_limit_exceeded"),
    errors.ModelLoading: Answer(503, UNAVAILABLE, "model_loading"),
    errors.ModelFailed: Answer(503, UNAVAILABLE, "model_failed"),
    errors.ModelStalled: Answer(503, UNAVAILABLE, "model_stalled"),
    errors.ShuttingDown: Answer(503, UNAVAILABLE, "shutting_down"),
    # nginx's status for the same; only the log and the metrics ever see it.
    errors.CallerGone: Answer(499, INVALID, "caller_gone"),
    errors.DeadlineExceeded: Answer(504, SERVER, "deadline_exceeded"),
    errors.EmbeddingFailed: Answer(500, SERVER, "embedding_failed"),
    errors.NonFiniteVector: Answer(500, SERVER, "non_finite_vector"),
    errors.ZeroVector: Answer(500, SERVER, "zero_vector"),
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


@frozen
class ErrorHandlers:
    """Make an answer of every error, in the dialect that the request was told to be in, or that has its path.

    Under overload most answers are errors, so that they cost what the model lacks: they are written here and not by
    Litestar's `Response`.
    """

    dialects: Dialects

    def by_class(self) -> ExceptionHandlersMap:
        """For Litestar."""
        handlers: Any = {
            errors.ProviderError: self._answer_provider_error,
            HTTPException: self._answer_http_error,
            Exception: self._answer_anything,
        }
        found: ExceptionHandlersMap = handlers
        return found

    def answer(self, request: Request[Any, Any, Any], exc: Exception) -> WrittenResponse:
        """The answer to `exc`."""
        if isinstance(exc, errors.ProviderError):
            return self._answer_provider_error(request, exc)
        if isinstance(exc, HTTPException):
            return self._answer_http_error(request, exc)
        return self._answer_anything(request, exc)

    def _written(
        self, request: Request[Any, Any, Any], failure: Failure, headers: Mapping[str, str] | None = None
    ) -> WrittenResponse:
        state, dialect = request.scope["state"], self._dialect_of(request)
        state["dialect"] = dialect.name
        if isinstance(failure.cause, errors.ProviderError):
            state["error"] = type(failure.cause)
        body = orjson.dumps(dialect.write_error(failure))
        fields = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()] if headers else ()
        return WrittenResponse.of_json(body, fields, failure.status)

    def _dialect_of(self, request: Request[Any, Any, Any]) -> Dialect:
        state = request.scope["state"]
        return self.dialects.named(state["dialect"]) if "dialect" in state else self.dialects.at(request.scope["path"])

    def _answer_provider_error(self, request: Request[Any, Any, Any], exc: errors.ProviderError) -> WrittenResponse:
        """Answer one of our own errors by the table."""
        answer = next(TABLE[kind] for kind in type(exc).__mro__ if kind in TABLE)
        if answer.status == 500:
            _log.error("request_failed", path=request.scope["path"], exc_info=exc)
        state = request.scope["state"]
        names = state.get("field_names", _NAMES)
        said = phrase(exc, names) if exc.public else Phrase(apology(state))
        if isinstance(exc, errors.EmbeddingFailed) and exc.index is not None:
            said = Phrase(said.message, names.place(exc.index))
        code = exc.code if isinstance(exc, errors.InvalidRequest) else answer.code
        failure = _failure(request, exc, answer.status, said.message, answer.type, param=said.param, code=code)
        return self._written(request, failure, _headers(exc, answer.status))

    def _answer_http_error(self, request: Request[Any, Any, Any], exc: HTTPException) -> WrittenResponse:
        """Answer the framework's own errors: unknown path or method."""
        method, path = request.scope["method"], request.scope["path"]
        headers = {key.lower(): value for key, value in (exc.headers or {}).items()}
        status, message, kind, code = exc.status_code, apology(request.scope["state"]), SERVER, None
        admin_port = request.app.state.settings.server.admin_port
        elsewhere = "" if admin_port is None else wrong_port(request.scope, admin_port)
        if elsewhere and status in {404, 405}:
            # A path that is not here has no methods.
            status, message, kind, headers = 404, f"Invalid URL ({method} {path}). {elsewhere}", INVALID, {}
        elif status == 404:
            message, kind = f"Invalid URL ({method} {path}). {self._right_url(request)}", INVALID
        elif status == 405:
            hint = "(HINT: Perhaps you meant to use a different HTTP method?)"
            if "GET" in headers.get("allow", ""):
                headers["allow"] += ", HEAD"
            message = f"Not allowed to {method} on {path}. {hint} Allowed: {headers.get('allow', 'see /docs')}."
            kind, code = INVALID, "method_not_supported"
        elif status >= 500:
            _log.error("request_failed", path=path, exc_info=exc)
        else:
            # Whatever else the framework refuses is the request's fault: 400, because some clients retry 415 and 422.
            status, message, kind = 400, str(exc.detail), INVALID
        return self._written(request, _failure(request, exc, status, message, kind, code=code), headers)

    def _answer_anything(self, request: Request[Any, Any, Any], exc: Exception) -> WrittenResponse:
        """Answer what nobody foresaw: the log gets all of it, the client an apology."""
        _log.error("request_failed", path=request.scope["path"], exc_info=exc)
        return self._written(request, _failure(request, exc, 500, apology(request.scope["state"]), SERVER))

    def _right_url(self, request: Request[Any, Any, Any]) -> str:
        path = request.scope["path"]
        dialect = self._dialect_of(request)
        if dialect in self.dialects.off:
            return (
                f"The API of {dialect.title} is switched off here. The operator can switch it on: "
                f"`dialects: {{{dialect.name}: true}}` in the configuration."
            )
        try:
            base = str(request.base_url).rstrip("/")
        except ValueError:
            # The Host header is the client's and may be anything.
            base = "http://localhost:9000"
        routes = routes_text(request.app.state.settings)
        if "rank" in path:
            return f"Documents are ranked at POST {base}{RERANK_PATHS[0]}. {routes}"
        if "embedding" in path or request.scope["method"] == "POST":
            return (
                f"Embeddings are at POST {base}{EMBEDDINGS_PATHS[0]}: "
                f"with an OpenAI client set base_url to {base}/v1. {routes}"
            )
        return f"With an OpenAI client set base_url to {base}/v1. {routes}"


def _failure(
    request: Request[Any, Any, Any],
    cause: Exception,
    status: int,
    message: str,
    kind: str,
    *,
    param: str | None = None,
    code: str | None = None,
) -> Failure:
    scope = request.scope
    return Failure(status, message, kind, param, code, scope["path"], cause, scope["state"].get("request_id", ""))


def _headers(exc: errors.ProviderError, status: int) -> dict[str, str]:
    headers: dict[str, str] = {}
    if isinstance(exc, errors.NotAvailable):
        # Clients retry only with an integer below 60; NotAvailable keeps it in range.
        headers["retry-after"] = str(exc.retry_after_seconds)
    if isinstance(exc, errors.LimitExceeded):
        headers["retry-after"] = str(exc.retry_after_seconds)
        if exc.requested > exc.limit or exc.period == "day":
            headers["x-should-retry"] = "false"
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(exc, errors.StorageFull):
        headers["x-should-retry"] = "false"
    if isinstance(exc, errors.RangeNotSatisfiable):
        headers["content-range"] = f"bytes */{exc.size}"
    if isinstance(exc, errors.DeadlineExceeded) or (isinstance(exc, errors.EmbeddingFailed) and exc.is_lasting):
        # Nobody waits any more, or the same input would fail again.
        headers["x-should-retry"] = "false"
    if isinstance(exc, errors.CallerTooSlow | errors.BodyTooLarge | errors.FileTooLarge | errors.StorageFull):
        # The rest of the body may still come; it belongs to no request any more.
        headers["connection"] = "close"
    return headers
