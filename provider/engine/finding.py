"""From a model's settings to its files on this machine, and what they say. Blocking, as a download is."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from provider.backends import (
    Backend,
    BackendOptions,
    HasDeviceMemory,
    Memory,
    SelectsFiles,
    find_backend,
    find_entry_point,
    own_options,
)
from provider.backends.protocol import PROCESS
from provider.backends.registry import AUTO
from provider.cores import Worker
from provider.domain import ModelSpec
from provider.engine.choosing import REFERENCE, check_auto, choose_backend
from provider.errors import SettingsError
from provider.models.prompts import given_prompts, recipe_of
from provider.models.resolve import Resolved, resolve
from provider.models.selection import SelectFiles, nothing_more
from provider.models.spec import read_spec
from provider.resident import memory_limit, resident_bytes
from provider.settings import HubSettings, ModelSettings
from provider.tasks import find_task


@frozen(eq=False)
class FoundModel:
    """A model whose files are on this machine.

    Attributes:
        backend: its name; also with `backend: auto`.
        options: the backend's own, checked.
    """

    backend: str
    source: Resolved
    backend_class: type[Backend]
    options: Any

    @property
    def origin(self) -> dict[str, object]:
        """Where its files are and come from, for the log."""
        source = self.source
        return {"folder": str(source.folder), "origin": source.origin, "revision": source.revision}

    @property
    def weight_bytes(self) -> int:
        """Size of the weights on disk, as far as that can be told before they are read."""
        return sum(size for _, size, _ in self.weight_stamps().values())

    def memory(self, settings: ModelSettings, worker: Worker) -> Memory:
        """Where the model will be, or is, and what this process holds there.

        Raises:
            BackendUnavailable: the backend does not run there.
        """
        if issubclass(self.backend_class, HasDeviceMemory):
            asked = BackendOptions(settings.device, settings.dtype, worker=worker.number, own=self.options)
            found = self.backend_class.device_memory(asked)
            if found is not None:
                return found
        return Memory(PROCESS, resident_bytes(), memory_limit())

    def weight_stamps(self) -> dict[Path, tuple[int, int, int]]:
        """Each file of weights with inode, size and time of its last change: another stamp is another content."""
        folder = self.source.folder
        files = [folder / name for name in self.source.own] or folder.rglob("*.safetensors")
        states = ((path, path.stat()) for path in files if path.is_file())
        return {path: (state.st_ino, state.st_size, state.st_mtime_ns) for path, state in states}


def find_model(
    settings: ModelSettings,
    hub: HubSettings,
    *,
    show_progress: bool,
    notify_download: Callable[[str, dict[str, object]], None],
) -> FoundModel:
    """Find the model's backend and files, downloading the files if need be.

    Args:
        settings: of the model.
        hub: where to download from.
        show_progress: whether a download draws a progress bar.
        notify_download: see `download`.

    Raises:
        ProviderError: a ModelError, BackendError or SettingsError whose message says what to do.
    """
    check_auto(settings)
    find = partial(_find, hub=hub, show_progress=show_progress, notify_download=notify_download)
    if settings.backend != AUTO:
        return find(settings)
    found = find(evolve(settings, backend=REFERENCE))
    name = choose_backend(settings, hub, model=read_files(found.source, settings)[0].fingerprint)
    return found if name == REFERENCE else find(evolve(settings, backend=name))


def _find(
    settings: ModelSettings,
    *,
    hub: HubSettings,
    show_progress: bool,
    notify_download: Callable[[str, dict[str, object]], None],
) -> FoundModel:
    # The backend first: a misspelt name should not cost a download.
    backend_class = find_backend(settings.backend)
    options = own_options(settings.backend, backend_class, settings.options)
    select_more = _selection(settings, backend_class, options)
    source = resolve(settings, hub, select_more=select_more, progress=show_progress, notify=notify_download)
    return FoundModel(settings.backend, source, backend_class, options)


def backend_files(settings: ModelSettings) -> SelectFiles:
    """Picks the files that the model's backend reads besides what every model needs, for who downloads only.

    The built-in backends read the safetensors alone, and torch takes seconds to import; any other backend is imported.

    Raises:
        BackendError: there is no such backend, or it cannot be imported.
        SettingsError: its options are at fault.
    """
    if find_entry_point(settings.backend).module.startswith("provider.backends."):
        return nothing_more
    backend_class = find_backend(settings.backend)
    return _selection(settings, backend_class, own_options(settings.backend, backend_class, settings.options))


def _selection(settings: ModelSettings, backend_class: type[Backend], options: object) -> SelectFiles:
    if not issubclass(backend_class, SelectsFiles):
        return nothing_more
    select = backend_class.select_files
    asked = BackendOptions(device=settings.device, dtype=settings.dtype, own=options)
    return lambda names: select(names, asked)


def read_files(source: Resolved, settings: ModelSettings) -> tuple[ModelSpec, tuple[str, ...]]:
    """What a model's files and its settings say of it, and sentences that an operator should read.

    Raises:
        InvalidModel: the files are damaged, or of a kind that is not served.
        SettingsError: `model.task` is not for them.
    """
    spec, notices = read_spec(
        source.folder,
        name=settings.served_name,
        max_context_length=settings.max_context_length,
        default_prompt=settings.default_prompt,
        prompts=given_prompts(settings),
        normalize=settings.normalize,
        # A backend that found files of its own reads a graph that needs no class.
        needs_class=not source.own,
        output=settings.task,
    )
    if not any(spec.prompts.values()):
        spec = evolve(spec, recipe=recipe_of(settings))
    if settings.task is not None:
        spec = _with_task(spec, settings.task)
    return spec, (*source.notices, *notices)


def _with_task(spec: ModelSpec, name: str) -> ModelSpec:
    """The model of `spec` for the task called `name`, instead of what its files say where that is another."""
    if spec.task.output == name:
        return spec
    found = find_task(name).read(spec.folder)
    if found is None:
        msg = (
            f"model.task is {name!r}, but by its files the model {spec.name!r} gives {', '.join(spec.outputs)}; leave "
            "the setting out. Only a masked language model without modules.json leaves it open: it is dense or sparse"
        )
        raise SettingsError(msg)
    return evolve(spec, tasks=(found,))
