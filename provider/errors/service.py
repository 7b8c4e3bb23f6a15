"""Errors that callers cannot mend: settings, models, backends, commands, and what is not available now."""

from typing import Any, ClassVar

MOST_RETRY_SECONDS = 59
"""Clients ignore longer times: the AI SDK from 60 seconds on, OpenAI's own above 60."""


class ProviderError(Exception):
    """Base of every error the product raises on purpose."""

    public: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors travel between processes with all they hold, whatever their constructor takes."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[ProviderError], args: tuple[object, ...], held: dict[str, object]) -> ProviderError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(held)
    return error


class SettingsError(ProviderError):
    """A setting is misspelt, mistyped or contradicts another; the message names setting, value and what is allowed."""


class NotAvailable(ProviderError):
    """Nothing is wrong with the request; try again in `retry_after_seconds` (1 to 59)."""

    public = True

    def __init__(self, message: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(message)
        self.retry_after_seconds = min(MOST_RETRY_SECONDS, max(1, retry_after_seconds))


class Overloaded(NotAvailable):
    """The queue is full."""


class TooManyRequests(Overloaded):
    """Too many requests, or bytes of them, are under way."""


class ModelLoading(NotAvailable):
    """The model is on its way."""


class ModelFailed(NotAvailable):
    """The model could not be loaded; the log says why."""


class ModelStalled(NotAvailable):
    """A forward pass hangs, and what was in it is given up."""

    def __init__(
        self,
        message: str = "A forward pass of the model hangs. Please try again later.",
        *,
        retry_after_seconds: int = 5,
    ) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)


class ShuttingDown(NotAvailable):
    """The process was asked to stop."""

    def __init__(
        self, message: str = "The service is shutting down. Please try again later.", *, retry_after_seconds: int = 5
    ) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)


class CallerGone(ProviderError):
    """The client closed the connection; its work was dropped, and no answer can reach it."""


class DeadlineExceeded(ProviderError):
    """The caller's own deadline passed; its work was dropped."""

    public = True


class EmbeddingFailed(ProviderError):
    """The forward pass failed; other inputs of the same batch are not affected.

    Attributes:
        reason: says what failed without naming the place.
        index: the input's place in the request, where known.
        is_lasting: whether the same input would fail again: not if memory ran out, or if the model fails at any input.
    """

    def __init__(self, reason: str, *, index: int | None = None, is_lasting: bool = True) -> None:
        super().__init__(reason if index is None else f"input {index}: {reason}")
        self.reason, self.index, self.is_lasting = reason, index, is_lasting


class NonFiniteVector(EmbeddingFailed):
    """The model answered NaN or infinity; `index` is the input's place in the request."""

    public = True


class ZeroVector(EmbeddingFailed):
    """The model answered a vector of zeros, which has no direction; `index` is the input's place in the request."""

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
