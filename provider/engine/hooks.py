"""What the engine tells whoever listens: frozen records, handed to plain callables. Logs and metrics are listeners."""

import logging
from collections.abc import Callable
from enum import StrEnum
from typing import Literal

from attrs import frozen

from provider.domain import ANONYMOUS, Caller, Timings, Usage

_log = logging.getLogger(__name__)


class ModelState(StrEnum):
    """Where a model is in its life."""

    WAITING = "waiting"
    """Configured and not asked for yet (lazy), or its turn to load has not come."""
    RESOLVING = "resolving"
    """Its files are being found, or downloaded."""
    LOADING = "loading"
    """Its weights are being loaded and warmed up."""
    READY = "ready"
    FAILED = "failed"
    """It could not be loaded."""
    CLOSED = "closed"


@frozen
class ModelChanged:
    """A model entered `state`.

    Attributes:
        model: its configured name.
        seconds: time spent in the state before this one.
        detail: facts for the log: `folder`, `revision`, `bytes` (of the weights), `backend`, `device`, `dtype`,
            `lanes`, `threads_per_lane`, `reason` of a failure, `notices` found in its files.
    """

    model: str
    state: ModelState
    seconds: float
    detail: dict[str, object]


@frozen
class ModelsChanged:
    """The configured models are others from now on: names that were `added`, `removed`, or get other settings."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    replaced: tuple[str, ...]


@frozen
class DownloadChanged:
    """A download of a model's files started, finished or failed.

    Attributes:
        model: its configured name.
        phase: `started`, `finished` or `failed`.
        seconds: since the start.
        detail: `repository`, `revision`, `bytes`, `reason`.
    """

    model: str
    phase: str
    seconds: float
    detail: dict[str, object]


@frozen
class ModelVerified:
    """A model was compared with its reference before it is served.

    Attributes:
        model: its configured name.
        passed: whether it may be served.
        seconds: what comparing took.
        figures: name to value: what was measured, and which figure `failed`.
    """

    model: str
    passed: bool
    seconds: float
    figures: dict[str, object]


@frozen
class ModelTuned:
    """A model that serves was measured, and has what is best from now on.

    Attributes:
        model: its configured name.
        facts: `lanes`, `threads_per_lane` and `batch_tokens` as they are now, and what was measured.
        problem: why it could not be measured.
    """

    model: str
    facts: dict[str, object]
    problem: str | None = None


@frozen
class ModelNoticed:
    """A request showed something about a model that an operator should know. Sent once a model and notice."""

    model: str
    notice: str


@frozen
class BatchDone:
    """One forward pass ended.

    Attributes:
        rows: inputs in it.
        tokens: their tokens, padding not counted.
        padding: tokens that they were padded with; 0 for a backend that does not pad.
        queue_seconds: how long its oldest row had waited.
        error: the type of what went wrong, None if nothing.
    """

    model: str
    rows: int
    tokens: int
    queue_seconds: float
    forward_seconds: float
    error: str | None = None
    padding: int = 0


@frozen
class RequestWaited:
    """A request stopped waiting for room, before its body was read or before its model's queue.

    Attributes:
        outcome: `admitted`; `refused`, because it took too long or the service ends; `left`, as its caller did.
        caller: who sent it.
    """

    seconds: float
    outcome: Literal["admitted", "refused", "left"]
    caller: Caller = ANONYMOUS


DropReason = Literal["too_many", "head_too_slow", "head_too_large", "body_too_slow", "answer_unread", "malformed"]


@frozen
class ConnectionDropped:
    """The server ended a connection whose client broke a limit or does not speak HTTP."""

    reason: DropReason


@frozen
class RequestAnswered:
    """A request was answered by the engine. Sent in the context (contextvars) of the request."""

    model: str
    usage: Usage
    truncated: int
    timings: Timings
    caller: Caller = ANONYMOUS
    outputs: tuple[str, ...] = ()


@frozen
class JobChanged:
    """A job of many requests, which OpenAI calls a batch, entered a state.

    Attributes:
        job: its id.
        state: OpenAI's word for it.
        owner: name of the key that it belongs to; empty where there are no keys.
        completed: requests that were answered.
        failed: requests that were not.
        total: all of them; 0 until they were counted.
    """

    job: str
    state: str
    owner: str
    completed: int
    failed: int
    total: int


@frozen
class JobPaused:
    """A job does not advance, for the reason that `code` and `message` say."""

    job: str
    code: str
    message: str


@frozen
class StoreChanged:
    """The cache's store fails, or works again. While it does not work it is skipped.

    Attributes:
        store: its configured name.
        operation: `read` or `write`.
        reason: what went wrong; empty where it works again.
    """

    store: str
    operation: Literal["read", "write"]
    is_up: bool
    reason: str = ""


@frozen
class StoreRead:
    """The cache's store answered a call for entries.

    Attributes:
        found: entries that were there.
        missing: those that were not.
        corrupt: those that were not what was once written, and so not used.
        seconds: what the call took.
    """

    found: int
    missing: int
    corrupt: int
    seconds: float


@frozen
class StoreWritten:
    """Entries were written to the cache's store, or were not: too many waited, or it does not work."""

    written: int
    dropped: int


Event = (
    ModelChanged
    | ModelsChanged
    | ModelNoticed
    | ModelVerified
    | ModelTuned
    | DownloadChanged
    | BatchDone
    | RequestWaited
    | ConnectionDropped
    | RequestAnswered
    | JobChanged
    | JobPaused
    | StoreChanged
    | StoreRead
    | StoreWritten
)
Hook = Callable[[Event], None]
"""Called with every event, on the event loop's thread; quick, never blocking."""


class Hooks:
    """Several hooks as one. One that raises is logged and harms neither the others nor the work that they hear of."""

    def __init__(self, *hooks: Hook) -> None:
        self._hooks = list(hooks)

    def add(self, hook: Hook) -> None:
        """Listen from now on."""
        self._hooks.append(hook)

    def __call__(self, event: Event) -> None:
        """Tell everyone."""
        for hook in tuple(self._hooks):
            try:
                hook(event)
            except Exception:  # noqa: BLE001 - whatever a listener raises, the work goes on
                _log.exception("a listener failed at %s", type(event).__name__)
