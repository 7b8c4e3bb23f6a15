"""The ingress: the same application as without Ray, whose models run in replicas."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from attrs import evolve, frozen
from litestar import Litestar
from litestar.types import Receive, Scope, Send
from prometheus_client import Metric
from prometheus_client.registry import Collector
from ray import serve

from emb_provider_ray.families import Joined, families
from emb_provider_ray.fleet import FLEET, REGISTRY
from provider.app import create_app
from provider.cores import Worker
from provider.engine.engine import Engine
from provider.errors import ShuttingDown
from provider.http.lifecycle import Lifecycle
from provider.settings import ModelSettings, Settings
from provider.telemetry.logs import configure_logging
from provider.telemetry.metrics import Metrics

_SCRAPE_SECONDS = 3.0


@frozen
class Progress:
    """How far an ingress has come with a change of models.

    Attributes:
        named: deployments of the models that it serves.
        used: deployments that requests under way need, too.
        problems: eager models that do not work yet, and why.
    """

    named: frozenset[str]
    used: frozenset[str]
    problems: dict[str, str]


@serve.ingress()
class Ingress:
    """What answers HTTP. Ray Serve calls all methods on one event loop."""

    def __init__(self, settings: Settings, replicas: Sequence[Any]) -> None:  # noqa: ARG002 - binds them to this application
        """Wait for the models, which come by `reconfigure`: they change while it serves.

        Args:
            settings: all but the models.
            replicas: handles of the deployments; a model's options name its own.
        """
        configure_logging(settings.log, never_block=True)
        self._settings = settings
        self._app: Litestar | None = None
        self._end = asyncio.Event()
        self._handles: dict[str, Any] = {}
        self._living: asyncio.Task[None] | None = None

    def __serve_build_asgi_app__(self) -> Any:  # noqa: ANN401 - an ASGI application; the name is Ray's
        """Called by Ray Serve."""

        # A function, not a method: uvicorn takes that for ASGI 2.
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await self._answer(scope, receive, send)

        return app

    async def reconfigure(self, user_config: Mapping[str, Any], rank: Any) -> None:  # noqa: ANN401 - Ray's ReplicaRank
        """Serve these models from now on; requests under way end with those they began with.

        Args:
            user_config: `models`, as JSON values.
            rank: of this replica among all.
        """
        models = msgspec.convert(user_config["models"], list[ModelSettings])
        settings = evolve(self._settings, model=models[0], models=models[1:])
        if self._app is not None:
            self._engine.reconfigure(settings)
            return
        self._app = create_app(settings, worker=Worker(rank.rank, settings.server.workers))
        self._metrics.gather = self._gather
        begun = asyncio.get_running_loop().create_future()
        self._living = asyncio.create_task(self._live(self._app, begun))
        await begun

    async def progress(self) -> Progress:
        """How far a change of models has come."""
        runtimes = self._engine.runtimes.values()
        late = [*self._engine.upkeep.coming(), *(each for each in runtimes if each.is_coming)]
        coming = {each.name: f"{each.state}" for each in late if not each.settings.lazy}
        named = frozenset(str(each.settings.options["deployment"]) for each in runtimes)
        return Progress(named, frozenset(FLEET.used), coming | self._engine.problems)

    async def models(self) -> list[ModelSettings]:
        """Those it serves."""
        return [runtime.settings for runtime in self._engine.runtimes.values()]

    async def drain(self) -> None:
        """Refuse new requests, and wait until those that were accepted are answered."""
        lifecycle: Lifecycle = self._state["lifecycle"]
        lifecycle.drain()
        await lifecycle.requests.idle()

    async def families(self) -> tuple[str, list[Metric]]:
        """Who it is, and what it has counted."""
        found = families(self._metrics.registry, of_replica=False)
        return serve.get_replica_context().replica_tag, [*found, *REGISTRY.collect()]

    @property
    def _state(self) -> Any:  # noqa: ANN401 - the application's
        if self._app is None:
            raise ShuttingDown
        return self._app.state

    @property
    def _engine(self) -> Engine:
        engine: Engine = self._state["service"]
        return engine

    @property
    def _metrics(self) -> Metrics:
        metrics: Metrics = self._state["metrics"]
        return metrics

    async def _gather(self) -> Collector:
        context = serve.get_replica_context()
        names = {context.deployment, *FLEET.used}
        answers = await asyncio.gather(*(self._families_of(name, context.app_name) for name in names))
        found = {tag: several for answer in answers for tag, several in answer}
        tag, own = await self.families()
        return Joined({**found, tag: own})

    async def _families_of(self, deployment: str, application: str) -> list[tuple[str, list[Metric]]]:
        """Of all replicas that answer in time."""
        if deployment not in self._handles:
            self._handles[deployment] = serve.get_deployment_handle(deployment, application)
        with contextlib.suppress(TimeoutError):
            asked = self._handles[deployment].broadcast("families")
            found = await asked.results_async(timeout_s=_SCRAPE_SECONDS, return_exceptions=True)
            return [each for each in found if not isinstance(each, BaseException)]
        return []

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - Litestar's types lack lifespan
        if scope["type"] != "lifespan":
            if self._app is not None:
                await self._app(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._end.set()
        if self._living is not None:
            await self._living
        await send({"type": "lifespan.shutdown.complete"})

    async def _live(self, app: Litestar, begun: "asyncio.Future[None]") -> None:
        async with app.lifespan():
            begun.set_result(None)
            await self._end.wait()
