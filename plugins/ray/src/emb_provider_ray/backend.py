"""The backend of the ingress: its forward passes are calls to a model's replicas."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from attrs import evolve
from ray import serve
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from emb_provider_ray.fleet import FLEET, REPLICAS, RETRIES, ROWS
from emb_provider_ray.options import RayOptions
from emb_provider_ray.replica import AboutModel, OtherFingerprint
from provider.backends import (
    DENSE,
    MULTI_VECTOR,
    SCORES,
    SPARSE,
    BackendOptions,
    BackendUnavailable,
    Memory,
    ModelSpec,
    Outputs,
    RunsPasses,
    SelectsFiles,
    SparseVector,
    TokenBatch,
    find_backend,
    find_entry_point,
    own_options,
)
from provider.domain import RowOutput
from provider.errors import EmbeddingFailed, NotAvailable, ShuttingDown

_START_SECONDS = 900.0
# A batch that takes so many replicas with it is not given to another one: its rows are tried apart.
_MOST_LOSSES = 2
# For so long replicas that refuse a batch are asked again.
_MOST_SECONDS = 60.0
_PAUSE_SECONDS = 0.05
# Beside those that a replica runs: it has work while an answer is on its way.
_AHEAD = 1


class RayBackend:
    """One model's replicas. Lanes of the engine are batches under way; see `provider.backends.Backend`."""

    Options: ClassVar[type] = RayOptions
    concurrent: ClassVar[bool] = True
    outputs: ClassVar[frozenset[str]] = frozenset({DENSE, SPARSE, MULTI_VECTOR, SCORES})
    encoders: ClassVar[frozenset[str]] = frozenset({"transformer", "layered", "static"})

    def __init__(self, handle: "DeploymentHandle[Any]", model: str, deployment: str, about: AboutModel) -> None:
        self._handle, self._model, self._deployment = handle, model, deployment
        self._lanes: RunsPasses | None = None
        self._unfollow: Callable[[], None] | None = None
        self._per_replica = about.lanes + _AHEAD
        self._is_open, self._closing = True, threading.Lock()
        self.traits = evolve(
            about.traits,
            device=f"ray ({about.traits.device})",
            extra={**about.traits.extra, "deployment": deployment, "replica_lanes": about.lanes},
            lanes=self._per_replica,
            fingerprint=about.fingerprint,
        )
        FLEET.use(deployment)

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Wait for a replica that has loaded the model; see `Backend.load`."""
        own: RayOptions = options.own
        if not own.deployment:
            msg = "the backend ray runs within Ray Serve: start it with `emb-provider-ray serve`"
            raise BackendUnavailable(msg)
        try:
            application = serve.get_replica_context().app_name
            handle = serve.get_deployment_handle(own.deployment, application)
            if own.is_shared:
                # Ray prefers a replica that has loaded it.
                handle = handle.options(multiplexed_model_id=spec.name)
            about: AboutModel = handle.describe.remote(spec.name).result(timeout_s=_START_SECONDS)
        except (RayError, RayServeException, TimeoutError) as exc:
            msg = f"no replica of {own.deployment!r} has loaded the model {spec.name!r}: {_reason(exc)}"
            raise BackendUnavailable(msg) from exc
        return cls(handle, spec.name, own.deployment, about)

    @classmethod
    def select_files(cls, names: Sequence[str], options: BackendOptions) -> Iterable[str]:
        """What the replicas' backend reads; see `SelectsFiles`."""
        own: RayOptions = options.own
        if find_entry_point(own.backend).module.startswith("provider.backends."):
            return ()
        kind = find_backend(own.backend)
        if not issubclass(kind, SelectsFiles):
            return ()
        return kind.select_files(names, evolve(options, own=own_options(own.backend, kind, own.options)))

    @classmethod
    def device_memory(cls, options: BackendOptions) -> Memory:  # noqa: ARG003 - HasDeviceMemory's signature
        """Nothing of the model is in this process; see `HasDeviceMemory`."""
        return Memory("ray", 0, None)

    def follow(self, lanes: RunsPasses) -> None:
        """As many batches are under way as the replicas that run can use; see `FollowsLanes`."""
        self._lanes = lanes
        self._unfollow = FLEET.follow(self._deployment, self._use)

    def run(self, batch: TokenBatch) -> Outputs:
        """Have a replica run it; one that is lost meanwhile is replaced by another. See `Backend.run`."""
        losses, deadline = 0, time.monotonic() + _MOST_SECONDS
        while True:
            waiting = self._lanes.waiting_tokens if self._lanes is not None else 0
            try:
                call = self._handle.run.remote(self._model, batch, self.traits.fingerprint, os.getpid(), waiting)
                outputs, lanes = call.result(timeout_s=_START_SECONDS)
            except RayTaskError as exc:
                self._judge(exc.cause, is_late=time.monotonic() > deadline)
            except ActorUnavailableError:
                pass
            except RayActorError as exc:
                losses += 1
                if losses > _MOST_LOSSES:
                    msg = f"{losses} replicas were lost while they ran the batch"
                    raise RuntimeError(msg) from exc
            else:
                self._per_replica = lanes + _AHEAD
                ROWS.labels(self._model, self.traits.fingerprint).inc(batch.rows)
                return {name: _owned(rows) for name, rows in outputs.items()}
            if not self._is_open:
                raise ShuttingDown
            RETRIES.labels(self._model, self.traits.fingerprint).inc()
            time.sleep(_PAUSE_SECONDS)

    def close(self) -> None:
        """Leave the replicas to others. May be called twice."""
        with self._closing:
            if not self._is_open:
                return
            self._is_open = False
            # Of a model whose queries go another way there are two such objects.
            with contextlib.suppress(KeyError):
                REPLICAS.remove(self._model, self.traits.fingerprint)
        FLEET.leave(self._deployment)
        if self._unfollow is not None:
            self._unfollow()

    def _use(self, replicas: int) -> None:
        with self._closing:
            if self._is_open and self._lanes is not None:
                REPLICAS.labels(self._model, self.traits.fingerprint).set(replicas)
                self._lanes.change_count(max(1, replicas) * self._per_replica)

    @staticmethod
    def _judge(cause: BaseException | None, *, is_late: bool) -> None:
        """Raise what a replica raised, unless it begins or ends: for a while another one is tried then."""
        if isinstance(cause, EmbeddingFailed) and not cause.is_lasting:
            raise MemoryError(cause.reason)
        if is_late or not isinstance(cause, (NotAvailable, OtherFingerprint)):
            raise cause or RuntimeError("a replica failed")


def _owned(rows: Sequence[RowOutput]) -> Sequence[RowOutput] | np.ndarray[Any, Any]:
    """A copy: what Ray gives is read-only, and may lie in memory that it shares."""
    if isinstance(rows, np.ndarray):
        return np.array(rows)
    return [
        SparseVector(each.ids.copy(), each.weights.copy()) if isinstance(each, SparseVector) else each.copy()
        for each in rows
    ]


def _reason(exc: Exception) -> str:
    if isinstance(exc, RayTaskError) and exc.cause is not None:
        exc = exc.cause
    return f"{type(exc).__name__}: {exc}"
