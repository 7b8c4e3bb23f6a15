"""The models that there are. They may change while they serve: no request under way is dropped."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from attrs import evolve

from provider.domain import Caller
from provider.engine.hooks import Hook, ModelsChanged
from provider.engine.runtime import ModelRuntime
from provider.errors import Overloaded
from provider.models.catalogue import Catalogue
from provider.settings import ModelSettings

# A model that was removed is closed when its last request has ended, or after so long.
_LEAVE_SECONDS = 600.0


class ModelSet:
    """Runtimes by configured name, and what clients may call them. Used on the event loop's thread only.

    Attributes:
        runtimes: changed in place, so that whoever holds it sees the models of the moment.
        catalogue: names, aliases and hub ids.
    """

    def __init__(
        self,
        runtimes: dict[str, ModelRuntime],
        models: Sequence[ModelSettings],
        *,
        make: Callable[[ModelSettings], ModelRuntime],
        hooks: Hook,
        on_change: Callable[[], None],
    ) -> None:
        """Nothing is loaded.

        Args:
            runtimes: empty; filled here.
            models: in the order of the configuration.
            make: a runtime that has read nothing yet.
            hooks: told of changes.
            on_change: called when a name may mean something else from now on.

        Raises:
            SettingsError: a name or alias is given twice, or `make` refuses a model.
        """
        self.runtimes, self._make, self._hooks, self._on_change = runtimes, make, hooks, on_change
        self.catalogue = Catalogue.of(models)
        self.runtimes |= {model.served_name: make(model) for model in models}
        # Those that will replace a model of the same name once they have loaded, and those that are gone.
        self._coming: dict[str, ModelRuntime] = {}
        self._leaving: set[ModelRuntime] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def change(self, models: Sequence[ModelSettings]) -> None:
        """Serve `models` from now on; nothing has changed if this raises.

        New ones are loaded in the background. One with other settings is loaded beside the one that serves, and
        replaces it when it is ready; if it fails, the old one stays. Removed ones have no name any more, and are closed
        when their last request has ended.

        Raises:
            SettingsError: as `__init__`.
        """
        catalogue = Catalogue.of(models)
        wanted = {model.served_name: model for model in models}
        planned = self.runtimes | self._coming
        new = {
            name: self._make(model)
            for name, model in wanted.items()
            if name not in planned or not _is_same(planned[name].settings, model)
        }
        gone = [name for name in self.runtimes if name not in wanted]
        for name in (*gone, *new):
            if (given_up := self._coming.pop(name, None)) is not None:
                self._leave(given_up)
        for name in gone:
            self._leave(self.runtimes.pop(name))
        for name in wanted.keys() - new.keys():
            planned[name].settings = wanted[name]
        replacing = [name for name in new if name in self.runtimes]
        added = [name for name in new if name not in self.runtimes]
        self.catalogue = catalogue
        for runtime in new.values():
            runtime.is_late = True
        for name in added:
            self.runtimes[name] = new[name]
        self._on_change()
        self._hooks(ModelsChanged(tuple(added), tuple(gone), tuple(replacing)))
        for name in added:
            if not wanted[name].lazy:
                new[name].start_loading()
        for name in replacing:
            self._coming[name] = new[name]
            self._spawn(self._replace(name, new[name]))

    def coming(self) -> list[ModelRuntime]:
        """Those that will replace a model of the same name once they have loaded."""
        return list(self._coming.values())

    def named(self, name: str, caller: Caller) -> tuple[ModelRuntime, str, str | None]:
        """The model that `name` means to `caller`, the model's name in it, and the prompt's, which is not checked.

        Raises:
            ModelNotFound: none.
            ModelForbidden: one that `caller` may not use.
        """
        name, prompt = self.catalogue.split(name)
        model = self.catalogue.find(name) if caller.models is None else self.catalogue.find_for(caller, name)
        return self.runtimes[model.served_name], name, prompt

    def check_room(self, most: int, caller: Caller) -> None:
        """See that one of the models may let in a request of at most so many tokens.

        Raises:
            Overloaded: none would.
        """
        refusal = None
        for runtime in self.runtimes.values():
            try:
                runtime.check_room(1, caller, most=most)
            except Overloaded as exc:
                refusal = exc
            else:
                return
        if refusal is not None:
            raise refusal

    def problems(self, elsewhere: str | None) -> dict[str, str]:
        """Name of each eager model that cannot be relied on, and why.

        One that was added while serving has not been relied on yet, unless all others are gone.

        Args:
            elsewhere: what is wrong with every one that works here.
        """
        has_others = any(runtime.settings.lazy or not runtime.is_coming for runtime in self.runtimes.values())
        return {
            name: problem
            for name, runtime in self.runtimes.items()
            if not runtime.settings.lazy
            and not (has_others and runtime.is_coming)
            and (problem := runtime.problem or elsewhere)
        }

    async def close(self) -> None:
        """Close all models, those that come and those that leave included."""
        for task in self._tasks:
            task.cancel()
        everyone = {*self.runtimes.values(), *self._coming.values(), *self._leaving}
        await asyncio.gather(*(runtime.close() for runtime in everyone))

    async def _replace(self, name: str, new: ModelRuntime) -> None:
        if not new.settings.lazy:
            # From outside: the end of the engine must not be taken for the end of the load.
            await asyncio.wait([new.start_loading()])
        if self._coming.get(name) is not new:
            return
        del self._coming[name]
        if new.failure is None:
            self.runtimes[name], new = new, self.runtimes[name]
            self._on_change()
        self._leave(new)

    def _leave(self, runtime: ModelRuntime) -> None:
        self._leaving.add(runtime)
        self._spawn(self._close_unused(runtime))

    async def _close_unused(self, runtime: ModelRuntime) -> None:
        deadline = asyncio.get_running_loop().time() + _LEAVE_SECONDS
        while runtime.is_in_use and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - a bound as well
            await asyncio.sleep(0.05)
        await runtime.close()
        self._leaving.discard(runtime)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_same(old: ModelSettings, new: ModelSettings) -> bool:
    """Whether the loaded model serves by the new settings too: names and the like are read at each use."""
    return evolve(old, aliases=new.aliases, idle_unload_seconds=new.idle_unload_seconds, pinned=new.pinned) == new
