"""The errors of the product. They know no HTTP: `provider.api.errors` gives each a status, a type and a code.

ProviderError
├── SettingsError               a setting is misspelt, mistyped or contradicts another
├── RequestError                what the caller sent cannot be answered; `param` names the field
│   ├── InvalidRequest          the body's shape or a value in it
│   │   └── InvalidInput        one input cannot be embedded, whatever its length
│   ├── MalformedJSON           the body is no JSON document
│   ├── UnsupportedContentType  the body is declared as something other than JSON
│   ├── UnsupportedContentEncoding  the body is compressed in another way than is decoded
│   ├── BodyTooLarge            the body has more bytes than is allowed
│   ├── MissingModel            no model was named
│   ├── ModelNotFound           no configured model or alias has that name
│   ├── InputTooLong            one input has more tokens than the model takes
│   ├── CallerTooSlow           the request did not arrive in time
│   ├── TooManyTokens           the request as a whole has more tokens than one request may have
│   ├── AuthenticationMissing   keys are required and none came
│   └── AuthenticationFailed    the key is not one of ours
├── NotAvailable                nothing wrong with the request; the service cannot answer it now
│   ├── Overloaded              the queue is full
│   ├── ModelLoading            the model is on its way
│   ├── ModelFailed             the model could not be loaded; the log says why
│   └── ShuttingDown            the process was asked to stop
├── CallerGone                  nobody waits for the answer any more
├── EmbeddingFailed             the forward pass of these inputs failed
│   └── NonFiniteVector         the model answered NaN or infinity
├── ModelError                  a model's source or its files
│   ├── SourceNotFound          no such folder, package or repository
│   ├── SourceUnreachable       the hub did not answer and there is no copy here
│   ├── AccessDenied            the hub wants a token, or another one
│   └── InvalidModel            files missing, damaged or of an unsupported kind
├── BackendError                everything about finding and loading a backend
│   ├── UnknownBackend          no distribution registers that name, or two do
│   ├── BackendUnavailable      it cannot run here: device, library, dtype, option
│   └── ExportFailed            a model could not be written in another format
├── VerificationFailed          a model's vectors are not those of its reference
├── CannotListen                the port is taken, or the address is not ours
├── ServerFailed                a server that a command asks does not answer, or not with vectors
└── ContenderFailed             a contender of a benchmark is not there, or gave up

The message is written for whoever can act on it: what was got, what is allowed, what to do. `public` says whether a
caller over HTTP may read it; of the others they only learn that something failed, and the log has the rest.
"""

from typing import ClassVar

MOST_RETRY_SECONDS = 59
"""Clients ignore longer times: the AI SDK from 60 seconds on, OpenAI's own above 60."""


class ProviderError(Exception):
    """Base of every error the product raises on purpose."""

    public: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SettingsError(ProviderError):
    """A setting is misspelt, mistyped or contradicts another; the message names setting, value and what is allowed."""


class RequestError(ProviderError):
    """The caller can mend this. `param` is the path of the field at fault, as OpenAI writes it (`input[3]`)."""

    public = True

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidRequest(RequestError):
    """The body's shape, or a value in it. `code` refines it in OpenAI's words (`invalid_type`, `invalid_value`)."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param=param)
        self.code = code


class InvalidInput(InvalidRequest):
    """One input cannot be embedded. `index` is its place in the request, `reason` says why without naming the place."""

    def __init__(self, index: int, reason: str, *, code: str = "invalid_value") -> None:
        super().__init__(f"Invalid 'input[{index}]': {reason}", param=f"input[{index}]", code=code)
        self.index, self.reason = index, reason


class MalformedJSON(RequestError):
    """The body is no JSON document."""


class UnsupportedContentType(RequestError):
    """The body is declared as something other than JSON."""


class UnsupportedContentEncoding(RequestError):
    """The body is compressed in another way than is decoded."""


class BodyTooLarge(RequestError):
    """The body has more bytes than is allowed, as sent or decoded."""


class MissingModel(RequestError):
    """No model was named."""


class ModelNotFound(RequestError):
    """No configured model or alias has that name."""


class InputTooLong(RequestError):
    """One input has more tokens than the model takes, and truncation was not asked for.

    Attributes:
        index: its place in the request.
        tokens: how many it has; at least so many if `is_counted` is False: long texts are not counted to their end.
        limit: how many the model takes.
    """

    def __init__(self, index: int, *, tokens: int, limit: int, is_counted: bool = True) -> None:
        # Clients recognise this case by its words: OpenAI's current and former message, in one.
        super().__init__(
            f"Invalid 'input[{index}]': maximum input length is {limit} tokens. This model's maximum context length is "
            f"{limit} tokens, however input {index} has {'' if is_counted else 'more than '}{tokens} tokens. "
            'Shorten it, or send "truncate": true. The operator can cut long inputs of all clients: `truncate: end` '
            "(EMB_PROVIDER_MODEL_TRUNCATE=end).",
            param=f"input[{index}]",
        )
        self.index, self.tokens, self.limit, self.is_counted = index, tokens, limit, is_counted


class TooManyTokens(RequestError):
    """The request as a whole has more tokens than one request may have."""


class CallerTooSlow(RequestError):
    """The request did not arrive in time."""


class AuthenticationMissing(RequestError):
    """Keys are required and none came."""


class AuthenticationFailed(RequestError):
    """The key is not one of ours."""


class NotAvailable(ProviderError):
    """Nothing is wrong with the request; try again in `retry_after_seconds` (1 to 59)."""

    public = True

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = min(MOST_RETRY_SECONDS, max(1, retry_after_seconds))


class Overloaded(NotAvailable):
    """The queue is full."""


class ModelLoading(NotAvailable):
    """The model is on its way."""


class ModelFailed(NotAvailable):
    """The model could not be loaded; the log says why."""


class ShuttingDown(NotAvailable):
    """The process was asked to stop."""


class CallerGone(ProviderError):
    """The client closed the connection; its work was dropped, and no answer can reach it."""


class EmbeddingFailed(ProviderError):
    """The forward pass failed; other inputs of the same batch are not affected.

    `index` is the input's place in the request, where known; `reason` says what failed without naming the place.
    """

    def __init__(self, reason: str, *, index: int | None = None) -> None:
        super().__init__(reason if index is None else f"input[{index}]: {reason}")
        self.reason, self.index = reason, index


class NonFiniteVector(EmbeddingFailed):
    """The model answered NaN or infinity; `index` is the input's place in the request."""

    public = True


class ModelError(ProviderError):
    """A model's source or its files; `repr`-free, one line, with the way out."""


class SourceNotFound(ModelError):
    """No such folder, package or repository."""


class SourceUnreachable(ModelError):
    """The hub did not answer and there is no copy here."""


class AccessDenied(ModelError):
    """The hub wants a token, or another one."""


class InvalidModel(ModelError):
    """Files are missing, damaged or of an unsupported kind."""


class BackendError(ProviderError):
    """Everything about finding and loading a backend."""


class UnknownBackend(BackendError):
    """No installed distribution registers that name, or two do."""


class BackendUnavailable(BackendError):
    """The backend cannot run here: device, library, dtype or option."""


class ExportFailed(BackendError):
    """A model could not be written in another format; nothing is left of the attempt."""


class VerificationFailed(ProviderError):
    """A model's vectors drift further from the reference than allowed, or its backend breaks the protocol."""


class CannotListen(ProviderError):
    """The port is taken, or the address is not ours."""


class ServerFailed(ProviderError):
    """A server that a command asks for vectors does not answer, or answers something else."""


class ContenderFailed(ProviderError):
    """A contender of a benchmark is not there, or gave up."""
