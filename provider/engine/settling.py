"""What a model does once it serves: it compiles what is faster, measures which lanes are best, and then has them."""

import asyncio
import math
from functools import partial

from attrs import define, evolve

from provider.backends import GetsFaster, TokenBatch
from provider.engine.lanes import Lanes
from provider.engine.loading import ModelParts, in_daemon_thread
from provider.engine.plan import LanePlan
from provider.engine.scheduler import Scheduler
from provider.engine.tuning import tune, use_plan
from provider.errors import NotAvailable
from provider.resident import give_memory_back


def settle(parts: ModelParts, lanes: Lanes) -> ModelParts:
    """Improve and tune a model whose `lanes` serve; requests go first.

    Blocks, for any thread but the event loop's and the lanes'.

    Returns:
        The parts with what was chosen, which the lanes have already.

    Raises:
        ShuttingDown: the lanes are closed.
        ModelStalled: a pass hangs.
        Exception: what the backend raised.
    """
    if isinstance(parts.backend, GetsFaster):
        for step in parts.backend.improvements():
            lanes.run_idle([step], alone=True, drains=True)
        give_memory_back()
    if parts.tuned is not None or parts.to_tune is None:
        return parts
    trial = _TrialLanes(parts, lanes, parts.plan)
    try:
        tuned = tune(trial, parts.to_tune.choices)
    except NotAvailable:
        raise
    except Exception:
        trial.use(parts.plan, parts.limits.max_tokens)
        raise
    parts.to_tune.keep(tuned)
    return evolve(parts, plan=tuned.plan, limits=evolve(parts.limits, max_tokens=tuned.batch_tokens), tuned=tuned)


def settled(parts: ModelParts) -> ModelParts:
    """The same for a model that nothing serves yet; there is no event loop on this thread."""

    async def work() -> ModelParts:
        lanes = Lanes(
            parts.backend,
            Scheduler(parts.limits, max_tokens=2**62, max_wait_seconds=math.inf, lanes=parts.plan.lanes),
            check=lambda _outputs, _batch: None,
            count=parts.plan.lanes,
            name=f"tune {parts.spec.name}",
            on_batch=lambda _: None,
        )
        lanes.start()
        try:
            return await in_daemon_thread(f"tune {parts.spec.name}", partial(settle, parts, lanes))
        finally:
            await lanes.close()

    return asyncio.run(work())


@define(eq=False)
class _TrialLanes:
    """The lanes of a model that serves by `plan`; see `TrialLanes`."""

    _parts: ModelParts
    _lanes: Lanes
    _plan: LanePlan

    def run(self, plan: LanePlan, batch: TokenBatch, *, alone: bool) -> float:
        work = [partial(self._parts.backend.run, batch)] * plan.lanes
        if not alone:
            return self._lanes.run_idle(work, alone=False)
        return self._lanes.run_idle(work, alone=True, before=self._with(plan), after=self._with(self._plan))

    def use(self, plan: LanePlan, batch_tokens: int) -> None:
        self._plan = plan
        limits = evolve(self._parts.limits, max_tokens=batch_tokens)
        resize = partial(self._lanes.resize, plan.lanes, limits)
        self._lanes.run_idle([resize], alone=True, drains=True, before=self._with(plan))

    def _with(self, plan: LanePlan) -> "partial[None]":
        return partial(use_plan, self._parts.backend, plan)
