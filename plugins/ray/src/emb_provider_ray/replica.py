"""A replica: one process with one model, or with several lazy ones, that runs the batches it is sent."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from attrs import field, frozen
from prometheus_client import Metric
from ray import serve

from emb_provider_ray.families import families
from emb_provider_ray.scaling import RUNNING, WAITING
from provider.backends import BackendTraits, TokenBatch
from provider.cores import Worker
from provider.domain import Features, RowOutput
from provider.engine.engine import Engine
from provider.engine.hooks import Hooks
from provider.engine.loading import ModelParts
from provider.engine.rows import Row, Ticket
from provider.errors import ModelFailed
from provider.settings import CacheSettings, HubSettings, LogSettings, ModelSettings, QueueSettings, Settings
from provider.telemetry.logs import configure_logging, log_event
from provider.telemetry.metrics import Metrics
from provider.verification import verify_briefly

# What an ingress said of its queue is forgotten after so long.
_FRESH_SECONDS = 5.0
# The ingress admits; here everything is let in.
_NO_LIMIT = QueueSettings(max_tokens=2**50, max_wait_seconds=1e9)


class OtherFingerprint(Exception):
    """A batch came to a replica with another model than it was tokenised for."""

    def __init__(self, wanted: str, here: str) -> None:
        super().__init__(wanted, here)

    def __str__(self) -> str:
        return f"the batch is for the fingerprint {self.args[0]}, but this replica has {self.args[1]}"


@frozen
class AboutModel:
    """What an ingress has to know of the loaded model.

    Attributes:
        traits: of the backend.
        fingerprint: of its outputs.
        lanes: batches that run at a time.
    """

    traits: BackendTraits
    fingerprint: str
    lanes: int


@frozen
class Common:
    """Settings that all models share."""

    hub: HubSettings = field(factory=HubSettings)
    log: LogSettings = field(factory=LogSettings)
    stall_seconds: int = 120


class LoadedModel:
    """One model of this process, on an engine of its own."""

    def __init__(self, engine: Engine, name: str, metrics: Metrics) -> None:
        """Use `load`."""
        self._engine, self._runtime, self._metrics = engine, engine.runtimes[name], metrics
        # Ray awaits it when another model takes its place. Not a method: Python would call that too.
        self.__del__ = self.close
        self.is_open = True

    @classmethod
    async def load(cls, settings: ModelSettings, common: Common, cores: int) -> Self:
        """Load it.

        Raises:
            ProviderError: it cannot be loaded.
        """
        name = settings.served_name
        hooks = Hooks(log_event)
        queue = QueueSettings(
            max_tokens=_NO_LIMIT.max_tokens,
            max_wait_seconds=_NO_LIMIT.max_wait_seconds,
            stall_seconds=common.stall_seconds,
        )
        whole = Settings(model=settings, hub=common.hub, queue=queue, cache=CacheSettings(enabled=False))
        engine = Engine(whole, hooks, worker=Worker(most_cores=cores), verify=verify_briefly)
        metrics = Metrics([name], {name: name})
        metrics.gauges.watch_model(name, lambda: engine.runtimes.get(name))
        hooks.add(metrics.on_event)
        engine.start()
        runtime = engine.runtimes[name]
        await runtime.start_loading()
        if runtime.failure is not None:
            await engine.close()
            raise runtime.failure
        return cls(engine, name, metrics)

    @property
    def problem(self) -> str | None:
        """Why it cannot be relied on; None if it can."""
        return self._runtime.problem

    @property
    def parts(self) -> ModelParts:
        """The loaded model.

        Raises:
            ModelFailed: it is not there any more.
        """
        if self._runtime.loaded is None:
            msg = f"the model is {self._runtime.state}"
            raise ModelFailed(msg)
        return self._runtime.loaded

    @property
    def lanes(self) -> int:
        """Batches at a time."""
        return self._runtime.lanes.count if self._runtime.lanes is not None else 1

    def about(self) -> AboutModel:
        """See `AboutModel`."""
        return AboutModel(self.parts.backend.traits, self.parts.fingerprint, self.lanes)

    async def run(self, batch: TokenBatch, fingerprint: str) -> Mapping[str, Any]:
        """The outputs of a batch, row by row as it has them.

        Raises:
            OtherFingerprint: it is for another model.
            EmbeddingFailed: a row cannot be run.
            NotAvailable: the model cannot run anything now.
        """
        if self.parts.fingerprint != fingerprint:
            raise OtherFingerprint(fingerprint, self.parts.fingerprint)
        rows = [Row(each) for each in features_of(batch)]
        ticket = Ticket(rows)
        self._runtime.submit(rows)
        await ticket.wait()
        done = [row.outputs for row in rows if row.outputs is not None]
        return {name: _together([outputs[name] for outputs in done]) for name in batch.outputs}

    def families(self) -> list[Metric]:
        """What it has counted."""
        return families(self._metrics.registry, of_replica=True)

    async def close(self) -> None:
        """Free it."""
        self.is_open = False
        await self._engine.close()


class ModelReplica:
    """What Ray Serve starts as often as there are replicas."""

    async def __init__(  # type: ignore[misc] # Ray awaits it
        self, models: Mapping[str, ModelSettings], common: Common, cores: int, most_loaded: int
    ) -> None:
        """Load the model; with `most_loaded`, models are loaded when they are first asked for.

        Args:
            models: by name.
            common: what they share.
            cores: of this replica.
            most_loaded: how many are loaded at most at a time; 0: there is one model, loaded now.
        """
        configure_logging(common.log, never_block=True)
        self._models: dict[str, LoadedModel] = {}
        self._waiting: dict[int, tuple[int, float]] = {}
        self._running = 0

        async def load(name: str) -> LoadedModel:
            self._models[name] = await LoadedModel.load(models[name], common, cores)
            return self._models[name]

        self._load = serve.multiplexed(max_num_models_per_replica=most_loaded)(load) if most_loaded else None
        if self._load is None:
            await load(next(iter(models)))

    async def describe(self, model: str) -> AboutModel:
        """What the ingress has to know of a model."""
        return (await self._model(model)).about()

    async def run(
        self, model: str, batch: TokenBatch, fingerprint: str, ingress: int, waiting: int
    ) -> tuple[Mapping[str, Any], int]:
        """The outputs of a batch, and how many batches of the model run at a time here.

        Args:
            model: its name.
            batch: of rows that the ingress has tokenised.
            fingerprint: of the model that they are for.
            ingress: which one sends it.
            waiting: tokens in that one's queue.
        """
        self._waiting[ingress] = waiting, time.monotonic()
        self._running += batch.tokens
        try:
            loaded = await self._model(model)
            return await loaded.run(batch, fingerprint), loaded.lanes
        finally:
            self._running -= batch.tokens

    def families(self) -> tuple[str, list[Metric]]:
        """Who it is, and what it has counted."""
        found = [family for model in self._loaded() for family in model.families()]
        return serve.get_replica_context().replica_tag, found

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Called by Ray; see `scaling`."""
        oldest = time.monotonic() - _FRESH_SECONDS
        waiting = sum(tokens for tokens, seen in self._waiting.values() if seen > oldest)
        return {WAITING: float(waiting), RUNNING: float(self._running)}

    async def check_health(self) -> None:
        """Called by Ray, which replaces a replica where this fails."""
        problems = [problem for model in self._loaded() if (problem := model.problem) is not None]
        if problems:
            raise ModelFailed("; ".join(problems))

    async def process(self) -> int:
        """Its id, for tests that end it."""
        return os.getpid()

    def _loaded(self) -> list[LoadedModel]:
        return [model for model in self._models.values() if model.is_open]

    async def _model(self, name: str) -> LoadedModel:
        if self._load is None:
            return self._models[name]
        loaded: LoadedModel = await self._load(name)
        return loaded


def features_of(batch: TokenBatch) -> list[Features]:
    """The rows of a batch, each wanted with all of its outputs."""
    outputs, types = tuple(sorted(batch.outputs)), batch.type_ids
    return [
        Features(
            batch.row(i),
            int(batch.skips[i]),
            None if types is None else types[batch.offsets[i] : batch.offsets[i + 1]],
            0 if batch.unattended is None else int(batch.unattended[i]),
            False if batch.queries is None else bool(batch.queries[i]),
            outputs,
        )
        for i in range(batch.rows)
    ]


def _together(rows: Sequence[RowOutput]) -> Sequence[RowOutput] | np.ndarray[Any, Any]:
    arrays = [row for row in rows if isinstance(row, np.ndarray)]
    if len(arrays) == len(rows) and len({row.shape for row in arrays}) == 1:
        return np.stack(arrays)
    return rows
