"""The HTTP side put together: controllers, dependencies, error handlers, CORS, documentation."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from provider.api.auth import KeyRing
from provider.api.cors import cors_config
from provider.api.docs import docs_assets, openapi_document
from provider.api.embeddings import EmbeddingsController
from provider.api.errors import HANDLERS
from provider.api.head import AnswersHead
from provider.api.health import HealthController
from provider.api.models import ModelsController
from provider.api.openapi import openapi_config
from provider.api.root import root
from provider.engine.service import EmbeddingService
from provider.settings import Settings


def build_application(
    settings: Settings,
    service: EmbeddingService,
    *,
    lifespan: Callable[[Litestar], AbstractAsyncContextManager[None]],
    more_routes: Sequence[ControllerRouterHandler] = (),
) -> Litestar:
    """Wire controllers to what they depend on.

    Args:
        settings: all of them.
        service: what the controllers depend on.
        lifespan: opens and closes the service.
        more_routes: routes of other layers (metrics).

    Raises:
        SettingsError: the keys cannot be read, or an origin of CORS is none.
    """
    app = Litestar(
        route_handlers=[
            EmbeddingsController,
            ModelsController,
            HealthController,
            root,
            docs_assets,
            openapi_document,
            *more_routes,
        ],
        # One dependency, without dependencies of its own: resolving more costs more than all of parsing.
        dependencies={"service": Provide(lambda: service, sync_to_thread=False)},
        exception_handlers=HANDLERS,
        lifespan=[lifespan],
        state=State({"settings": settings, "service": service, "key_ring": KeyRing.open(settings.auth)}),
        cors_config=cors_config(settings.server),
        openapi_config=openapi_config(),
        request_max_body_size=settings.server.max_body_bytes,
        # The access log is ours (telemetry.request); Litestar's would log bodies, which are users' texts.
        logging_config=None,
    )
    app.asgi_handler = AnswersHead(app.asgi_handler)
    return app
