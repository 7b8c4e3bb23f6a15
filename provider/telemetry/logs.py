"""One line an event on standard error: JSON for machines, readable on a terminal. Never a text or a vector."""

import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor

from provider.cores import ONLY_WORKER, Worker
from provider.engine.hooks import (
    BatchDone,
    DownloadChanged,
    Event,
    JobChanged,
    JobPaused,
    ModelChanged,
    ModelNoticed,
    ModelsChanged,
    ModelState,
    ModelTuned,
    ModelVerified,
    RequestAnswered,
    RequestWaited,
    StoreChanged,
)
from provider.settings import LogSettings
from provider.telemetry.lines import LineWriter, cut_traceback, cut_values, escape_values
from provider.telemetry.request import add_request_id

_log = structlog.get_logger("provider.models")
_jobs_log = structlog.get_logger("provider.jobs")
_cache_log = structlog.get_logger("provider.cache")

_LIBRARIES = (
    "asyncio",
    "filelock",
    "httpcore",
    "httpx",
    "huggingface_hub",
    # What is wrong with the headers of a request, quoted; what its exporter says is told.
    "opentelemetry.baggage",
    "opentelemetry.trace",
    "py.warnings",
    "sentence_transformers",
    "torch",
    "transformers",
    "urllib3",
    "uvicorn",
)

_STATE_EVENTS = {
    ModelState.RESOLVING: "model_resolving",
    ModelState.LOADING: "model_resolved",
    ModelState.READY: "model_loaded",
    ModelState.FAILED: "model_failed",
}


def configure_logging(
    settings: LogSettings, stream: TextIO | None = None, *, worker: Worker = ONLY_WORKER, never_block: bool = False
) -> None:
    """Send our lines and everybody else's (uvicorn, transformers, warnings) through one format.

    Args:
        settings: level and format; `auto` is readable on a terminal and JSON elsewhere.
        stream: where to; standard error if None.
        worker: named on every line if it is not alone.
        never_block: whether a thread writes the lines, so that a stream that takes no more stops nobody. A terminal
            is written to at once.
    """
    stream = stream or sys.stderr
    is_console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_request_id,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if not worker.is_alone:
        shared.append(_naming(worker))
    shared.append(cut_values)
    rendering: list[Processor]
    if is_console:
        # Not the default formatter: it prints local variables, and among them are users' texts.
        plain = structlog.dev.plain_traceback
        colors = _wants_colors(stream)
        rendering = [
            structlog.processors.format_exc_info,
            cut_traceback,
            escape_values,
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain),
        ]
    else:
        rendering = [structlog.processors.format_exc_info, cut_traceback, structlog.processors.JSONRenderer(_json)]
    writer = LineWriter(stream) if never_block and not stream.isatty() else None
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.level]),
        logger_factory=partial(_Lines, writer.write if writer else partial(_write_at_once, stream)),
        cache_logger_on_first_use=False,
    )
    handler = writer or logging.StreamHandler(stream)
    meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[meta, *rendering], foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level)
    logging.captureWarnings(capture=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    # Errors always, warnings and notices at DEBUG; their debug lines never: these hold headers with keys.
    level = logging.INFO if settings.level == "DEBUG" else logging.ERROR
    for name in _LIBRARIES:
        logger = logging.getLogger(name)
        # transformers, once imported, writes by a handler of its own.
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(level)
    # These two set their own level when they are imported.
    for variable in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(variable, logging.getLevelName(level).lower())


class _Lines:
    """Writes our lines. By way of `logging`, as other libraries' take, a line costs half as much as a cached answer."""

    def __init__(self, write: Callable[[str], None], name: str = "") -> None:
        self._write, self.name = write, name

    def msg(self, line: str) -> None:
        """Write a line."""
        self._write(line + "\n")

    debug = info = warning = error = critical = msg


def _write_at_once(stream: TextIO, text: str) -> None:
    """One that cannot be written is lost, and harms nothing."""
    with contextlib.suppress(OSError, ValueError):
        stream.write(text)
        stream.flush()


def _json(line: EventDict, default: Callable[[Any], Any]) -> str:
    try:
        return orjson.dumps(line, default, orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # text that is no Unicode, or a number of more than 64 bits
        return json.dumps(line, default=default)


def _wants_colors(stream: TextIO) -> bool:
    """Whether lines are coloured: https://no-color.org, https://force-color.org."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


def _naming(worker: Worker) -> Processor:
    def name_worker(_logger: object, _method: str, line: EventDict) -> EventDict:
        line["worker"] = worker.number
        return line

    return name_worker


def log_event(event: Event) -> None:
    """A hook: the life of the models, and forward passes that failed."""
    match event:
        case RequestAnswered():
            pass  # the line of its request says it
        case ModelChanged():
            _log_state(event)
        case ModelsChanged():
            _log.info("models_changed", added=event.added, removed=event.removed, replaced=event.replaced)
        case ModelNoticed():
            _log.warning("model_notice", model=event.model, notice=event.notice)
        case ModelVerified():
            write = _log.info if event.passed else _log.error
            write("model_verified", model=event.model, seconds=round(event.seconds, 3), **event.figures)
        case ModelTuned():
            _log_tuned(event)
        case DownloadChanged():
            write = _log.error if event.phase == "failed" else _log.info
            write(f"download_{event.phase}", model=event.model, seconds=round(event.seconds, 3), **event.detail)
        case BatchDone(error=str()):
            _log.error("forward_failed", model=event.model, rows=event.rows, tokens=event.tokens, error=event.error)
        case RequestWaited():
            write = _log.debug if event.outcome == "admitted" else _log.info
            facts = {"caller": event.caller.name} if event.caller.name else {}
            write("request_waited", outcome=event.outcome, seconds=round(event.seconds, 3), **facts)
        case _:
            pass


def _log_tuned(event: ModelTuned) -> None:
    if event.problem is None:
        _log.info("model_tuned", model=event.model, **event.facts)
    else:
        _log.warning("model_not_tuned", model=event.model, reason=event.problem, **event.facts)


def log_job(event: Event) -> None:
    """A hook: the life of jobs."""
    if isinstance(event, JobPaused):
        _jobs_log.warning("job_paused", job=event.job, code=event.code, reason=event.message)
    elif isinstance(event, JobChanged):
        facts = {"caller": event.owner} if event.owner else {}
        counts = {"completed": event.completed, "failed": event.failed, "total": event.total}
        _jobs_log.info("job_changed", job=event.job, state=event.state, **counts, **facts)


def log_store(event: Event) -> None:
    """A hook: the cache's store."""
    if not isinstance(event, StoreChanged):
        return
    facts = {"store": event.store, "operation": event.operation}
    if event.is_up:
        _cache_log.info("cache_store_up", **facts)
    else:
        hint = "requests are answered without it until it works again"
        _cache_log.warning("cache_store_down", reason=event.reason, hint=hint, **facts)


def _log_state(event: ModelChanged) -> None:
    detail: dict[str, Any] = dict(event.detail)
    for notice in detail.pop("notices", []):
        _log.warning("model_notice", model=event.model, notice=notice)
    if event.state in (ModelState.CLOSED, ModelState.WAITING):
        if detail.pop("unloaded", False):
            _log.info("model_unloaded", model=event.model, **detail)
        return
    write = _log.error if event.state is ModelState.FAILED else _log.info
    write(_STATE_EVENTS[event.state], model=event.model, seconds=round(event.seconds, 3), **detail)
