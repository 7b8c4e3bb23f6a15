"""The HTTP side put together: controllers, dependencies, error handlers, CORS, documentation."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.middleware import DefineMiddleware
from litestar.openapi.spec import Tag
from litestar.types import ControllerRouterHandler, ExceptionHandlersMap

from provider.engine.engine import Engine
from provider.http.addresses import AllowedHosts, ChecksAddress
from provider.http.auth import KeyRing
from provider.http.cors import HidesForeignOrigins, cors_config
from provider.http.docs import docs_assets, openapi_document
from provider.http.head import AnswersHead
from provider.http.health import HealthController
from provider.http.lifecycle import Lifecycle
from provider.http.openapi import openapi_config
from provider.http.root import root
from provider.settings import Settings
from provider.usage.quotas import Quotas
from provider.verification.calibration import Calibrator


def build_application(
    settings: Settings,
    service: Engine,
    lifecycle: Lifecycle,
    key_ring: KeyRing,
    quotas: Quotas,
    *,
    controllers: Sequence[ControllerRouterHandler],
    dialects: Sequence[str],
    tags: Sequence[Tag],
    exception_handlers: ExceptionHandlersMap,
    lifespan: Callable[[Litestar], AbstractAsyncContextManager[None]],
    more_routes: Sequence[ControllerRouterHandler] = (),
) -> Litestar:
    """Wire controllers to what they depend on.

    Args:
        settings: all of them.
        service: what the controllers depend on.
        lifecycle: admission and the orderly end.
        key_ring: the accepted keys.
        quotas: what callers have used of theirs.
        controllers: the dialects' routes.
        dialects: names of those that are on.
        tags: their headings in the OpenAPI document.
        exception_handlers: make an answer of every error, by its class.
        lifespan: opens and closes the service.
        more_routes: routes of other layers (metrics).

    Raises:
        SettingsError: an origin of CORS is none, or a file of int8 ranges is wrong.
    """
    cors = cors_config(settings.server)
    app = Litestar(
        route_handlers=[
            *controllers,
            HealthController,
            root,
            docs_assets,
            openapi_document,
            *more_routes,
        ],
        # One dependency, without dependencies of its own: resolving more costs more than all of parsing.
        dependencies={"service": Provide(lambda: service, sync_to_thread=False)},
        middleware=_address_checks(settings),
        exception_handlers=exception_handlers,
        lifespan=[lifespan],
        state=State(
            {
                "settings": settings,
                "service": service,
                "lifecycle": lifecycle,
                "key_ring": key_ring,
                "quotas": quotas,
                "calibrator": Calibrator(service),
                "dialects": [*dialects],
            }
        ),
        cors_config=cors,
        openapi_config=openapi_config(tags),
        request_max_body_size=settings.server.max_body_bytes,
        # The access log is ours (telemetry.request); Litestar's would log bodies, which are users' texts.
        logging_config=None,
    )
    if cors is not None:
        app.asgi_handler = HidesForeignOrigins(app.asgi_handler, cors)
    app.asgi_handler = AnswersHead(app.asgi_handler, app.routes)
    return app


def _address_checks(settings: Settings) -> list[DefineMiddleware]:
    hosts = AllowedHosts.of(settings.server, needs_key=settings.auth.needs_key)
    port = settings.server.admin_port
    return [DefineMiddleware(ChecksAddress, hosts=hosts, admin_port=port)] if hosts or port else []
