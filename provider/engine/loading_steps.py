"""The steps of loading one model that block, each on a thread."""

import asyncio
from functools import partial
from typing import cast

from attrs import frozen

from provider.backends import Memory
from provider.engine.finding import FoundModel, find_model
from provider.engine.hooks import DownloadChanged
from provider.engine.loading import ModelParts, in_daemon_thread, load_parts
from provider.engine.surroundings import Surroundings
from provider.engine.throughput import PassWatch
from provider.settings import ModelSettings


@frozen
class Download:
    """How much of a model's files has come, in bytes, of those that were missing."""

    bytes: int
    total_bytes: int


class LoadingSteps:
    """Steps of one load. A step whose caller leaves ends on its thread, or with the process.

    Attributes:
        download: how far a download is, while there is one.
    """

    def __init__(self, settings: ModelSettings, around: Surroundings, watch: PassWatch) -> None:
        """The load begins now.

        Args:
            settings: of the model.
            around: what it shares with others.
            watch: sees the forward passes of the load.
        """
        self._settings, self._around, self._watch = settings, around, watch
        self._name, self._started = settings.served_name, around.clock()
        self.download: Download | None = None

    @property
    def seconds(self) -> float:
        """Since the load began."""
        return self._around.clock() - self._started

    async def find(self) -> FoundModel:
        """The model, once its files are on this machine; see `find_model`. Hooks are told of the download."""
        loop = asyncio.get_running_loop()

        def notify_download(phase: str, detail: dict[str, object]) -> None:
            if phase == "progress":
                self.download = Download(cast("int", detail["bytes"]), cast("int", detail["total"]))
                return
            event = DownloadChanged(self._name, phase, self.seconds, detail)
            loop.call_soon_threadsafe(self._around.hooks, event)

        finding = partial(
            find_model,
            self._settings,
            self._around.hub,
            show_progress=self._around.show_progress,
            notify_download=notify_download,
        )
        try:
            return await in_daemon_thread(f"find {self._name}", finding)
        finally:
            self.download = None

    async def memory(self, found: FoundModel) -> Memory:
        """See `FoundModel.memory`."""
        measuring = partial(found.memory, self._settings, self._around.worker)
        return await in_daemon_thread(f"measure {self._name}", measuring)

    async def parts(self, found: FoundModel) -> ModelParts:
        """See `load_parts`."""
        loading = partial(load_parts, found, self._settings, self._around.worker, self._watch)
        return await in_daemon_thread(f"load {self._name}", loading)
