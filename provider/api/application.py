"""The HTTP side put together: controllers, dependencies, error handlers, CORS, documentation."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.types import ControllerRouterHandler

from provider.api.auth import KeyRing
from provider.api.embeddings import EmbeddingsController
from provider.api.errors import HANDLERS
from provider.api.health import HealthController
from provider.api.models import ModelsController
from provider.api.openapi import docs_assets, openapi_config
from provider.api.root import root
from provider.engine.service import EmbeddingService
from provider.settings import ServerSettings, Settings

# What OpenAI's clients send from a browser; a wildcard would leave out `authorization`.
_REQUEST_HEADERS = [
    "authorization",
    "api-key",
    "content-type",
    "openai-organization",
    "openai-project",
    "x-request-id",
    "x-client-request-id",
    *(
        f"x-stainless-{name}"
        for name in (
            "arch",
            "async",
            "custom-poll-interval",
            "helper-method",
            "lang",
            "os",
            "package-version",
            "poll-helper",
            "read-timeout",
            "retry-count",
            "runtime",
            "runtime-version",
            "timeout",
        )
    ),
]
_ANSWER_HEADERS = ["x-request-id", "openai-processing-ms", "retry-after", "x-model-fingerprint", "x-truncated-inputs"]
_PREFLIGHT_SECONDS = 86_400


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
        SettingsError: the keys cannot be read.
    """
    return Litestar(
        route_handlers=[EmbeddingsController, ModelsController, HealthController, root, docs_assets, *more_routes],
        # One dependency, without dependencies of its own: resolving more costs more than all of parsing.
        dependencies={"service": Provide(lambda: service, sync_to_thread=False)},
        exception_handlers=HANDLERS,
        lifespan=[lifespan],
        state=State({"settings": settings, "service": service, "key_ring": KeyRing.open(settings.auth)}),
        cors_config=_cors(settings.server),
        openapi_config=openapi_config(),
        request_max_body_size=settings.server.max_body_bytes,
        # The access log is ours (telemetry.request); Litestar's would log bodies, which are users' texts.
        logging_config=None,
    )


def _cors(server: ServerSettings) -> CORSConfig | None:
    if not server.cors_origins:
        return None
    return CORSConfig(
        allow_origins=server.cors_origins,
        allow_methods=["GET", "POST", "OPTIONS"],
        allow_headers=_REQUEST_HEADERS,
        expose_headers=_ANSWER_HEADERS,
        max_age=_PREFLIGHT_SECONDS,
    )
