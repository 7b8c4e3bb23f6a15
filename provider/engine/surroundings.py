"""What the models of one engine share."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from attrs import frozen

from provider.backends import Memory
from provider.cores import ONLY_WORKER, Worker
from provider.engine.hooks import Hook
from provider.engine.rows import Row
from provider.engine.verdict import Verify
from provider.errors import SettingsError
from provider.settings import HubSettings, ModelSettings, QueueSettings

if TYPE_CHECKING:
    from provider.engine.runtime import ModelRuntime

MakeRoom = Callable[["ModelRuntime", int, Memory], Awaitable[None]]


@frozen(eq=False, kw_only=True)
class Surroundings:
    """What a model finds around it.

    Attributes:
        hub: where to download from.
        queue: how much may wait.
        hooks: told of every change of state, download and batch.
        on_row: called for each row that has an outcome (the cache keeps outputs).
        one_at_a_time: held while loading: two at once would only fight for the disk.
        one_settles: held while tuning: they would disturb each other's measurements.
        verify: compares a loaded model with its reference, on a thread; for models with `verify_at_start`.
        worker: whose share of the machine they run on.
        show_progress: whether a download draws a progress bar.
        clock: seconds, monotonic.
        make_room: awaited before a model is loaded, with what it will take, in bytes, and where; see `ModelUpkeep`.
    """

    hub: HubSettings
    queue: QueueSettings
    hooks: Hook
    on_row: Callable[[Row], None]
    one_at_a_time: asyncio.Lock
    one_settles: asyncio.Lock
    verify: Verify | None = None
    worker: Worker = ONLY_WORKER
    show_progress: bool = False
    clock: Callable[[], float] = time.monotonic
    make_room: MakeRoom | None = None

    def check(self, settings: ModelSettings) -> None:
        """See that a model finds what its settings ask for.

        Raises:
            SettingsError: it has `verify_at_start`, and there is no `verify`.
        """
        if settings.verify_at_start and self.verify is None:
            msg = (
                f"the model {settings.served_name!r} has model.verify_at_start, which needs an Engine that is opened "
                "with `verify=provider.verify_briefly`; give it, or set model.verify_at_start to false"
            )
            raise SettingsError(msg)
