"""Health that tells the truth: alive is not ready, and neither runs the model."""

from typing import Literal, NotRequired, TypedDict

from litestar import Controller, Response, get
from litestar.di import NamedDependency

from provider.api.openapi import ReadinessOperation
from provider.api.routes import LIVE_PATHS, MODELS_PATHS, READY_PATHS
from provider.engine.hooks import ModelState
from provider.engine.runtime import ModelRuntime
from provider.engine.service import EmbeddingService


class Liveness(TypedDict):
    """The process answers."""

    status: Literal["alive"]


class Readiness(TypedDict):
    """Whether all models work that are to be there from the start, and why not."""

    status: Literal["ready", "not_ready", "draining"]
    models: dict[str, str]
    problems: dict[str, str]
    worker: NotRequired[int]


class HealthController(Controller):
    """For load balancers, orchestrators and people. No key needed."""

    tags = ["Health"]  # noqa: RUF012 - Litestar's way

    @get(LIVE_PATHS)
    async def live(self) -> Liveness:
        """The process answers. Restart it when this fails."""
        return {"status": "alive"}

    @get(READY_PATHS, operation_class=ReadinessOperation)
    async def ready(self, service: NamedDependency[EmbeddingService]) -> Response[Readiness]:
        """200 when every model that was asked for is loaded, warm and working; else 503 and the reasons."""
        problems = {name: _for_everyone(service.runtimes[name], text) for name, text in service.problems.items()}
        status: Literal["ready", "not_ready", "draining"] = (
            "draining" if service.is_draining else "not_ready" if problems else "ready"
        )
        body: Readiness = {
            "status": status,
            "models": {name: str(runtime.state) for name, runtime in service.runtimes.items()},
            "problems": problems,
        }
        if not service.worker.is_alone:
            body["worker"] = service.worker.number
        headers = {"retry-after": "5"} if status != "ready" else {}
        if not service.worker.is_alone:
            # Over a kept connection, a prober would hear of this worker only.
            headers["connection"] = "close"
        return Response(body, status_code=200 if status == "ready" else 503, headers=headers)


def _for_everyone(runtime: ModelRuntime, problem: str) -> str:
    """Health needs no key, and the reason of a failure may name folders and repositories."""
    is_failed = runtime.state is ModelState.FAILED
    return f"could not be loaded; GET {MODELS_PATHS[0]} and the log have the reason" if is_failed else problem
