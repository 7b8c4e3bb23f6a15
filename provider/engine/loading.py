"""From a model's settings to its parts. Blocking: it runs in a thread of its own."""

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from attrs import frozen

from provider.backends import Backend, BackendOptions, find_backend, own_options
from provider.cores import available_cores
from provider.domain import ModelSpec
from provider.engine.tokenizer import Tokenizer
from provider.models.resolve import Resolved, resolve
from provider.models.spec import read_spec
from provider.models.weights import weight_bytes
from provider.settings import HubSettings, ModelSettings

T = TypeVar("T")

# More lanes than this contend for the interpreter lock; further cores go to the threads of each lane.
MAX_AUTO_LANES = 4


@frozen
class LanePlan:
    """How a model shares the cores: `lanes` forward passes at a time, `threads` CPU threads each."""

    lanes: int
    threads: int

    @classmethod
    def of(cls, settings: ModelSettings, *, is_concurrent: bool, cores: int) -> "LanePlan":
        """Follow the settings; what they leave open is chosen so that lanes x threads stay within the cores."""
        if not is_concurrent:
            lanes = 1
        elif settings.lanes is not None:
            lanes = settings.lanes
        else:
            lanes = min(MAX_AUTO_LANES, max(1, cores // (settings.threads_per_lane or 1)))
        return cls(lanes, settings.threads_per_lane or max(1, cores // lanes))


@frozen(eq=False)
class FoundModel:
    """A model whose files are on this machine.

    Attributes:
        own: the backend's own options, checked.
    """

    source: Resolved
    backend_class: type[Backend]
    own: Any


@frozen(eq=False)
class ModelParts:
    """A model, loaded but not yet running.

    Attributes:
        notices: sentences about its files that an operator should read.
        weight_bytes: size of its weights on disk.
        fingerprint: 16 hex digits; see `_fingerprint`.
    """

    source: Resolved
    spec: ModelSpec
    notices: tuple[str, ...]
    tokenizer: Tokenizer
    backend: Backend
    plan: LanePlan
    weight_bytes: int
    fingerprint: str


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
        notify_download: called with `started`, `finished` or `failed` and details, for downloads only.

    Raises:
        ProviderError: a ModelError, BackendError or SettingsError whose message says what to do.
    """
    # The backend first: a misspelt name should not cost a download.
    backend_class = find_backend(settings.backend)
    own = own_options(settings.backend, backend_class, settings.options)
    source = resolve(settings, hub, progress=show_progress, notify=notify_download)
    return FoundModel(source, backend_class, own)


def load_parts(found: FoundModel, settings: ModelSettings) -> ModelParts:
    """Read, check and load a model whose files are there.

    Raises:
        ProviderError: as `find_model`.
    """
    source, backend_class, own = found.source, found.backend_class, found.own
    spec, notices = read_spec(
        source.folder,
        name=settings.served_name,
        max_context_length=settings.max_context_length,
        default_prompt=settings.default_prompt,
    )
    tokenizer = Tokenizer.from_folder(
        source.folder,
        max_tokens=spec.max_tokens,
        pools_prompt=spec.pools_prompt,
        embedding_rows=spec.vocabulary_size,
    )
    plan = LanePlan.of(settings, is_concurrent=backend_class.concurrent, cores=available_cores())
    options = BackendOptions(device=settings.device, dtype=settings.dtype, threads=plan.threads, own=own)
    backend = backend_class.load(spec, options)
    if backend.traits.device != "cpu" and settings.lanes is None:
        # One lane keeps an accelerator busy; a second would only take memory.
        plan = LanePlan(1, plan.threads)
    return ModelParts(
        source,
        spec,
        (*source.notices, *notices),
        tokenizer,
        backend,
        plan,
        weight_bytes=weight_bytes(spec.folder),
        fingerprint=_fingerprint(spec, backend, own),
    )


def _fingerprint(spec: ModelSpec, backend: Backend, own: object) -> str:
    """16 hex digits of SHA-256 over all that decides a vector: files, backend, its options and own weights, the dtype.

    Vectors are comparable, and may share a cache entry, only under the same fingerprint.
    """
    kind = type(backend)
    traits = backend.traits
    parts = (spec.fingerprint, f"{kind.__module__}:{kind.__qualname__}", traits.dtype, repr(own), traits.weights_digest)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


async def in_daemon_thread(name: str, work: Callable[[], T]) -> T:
    """Run blocking `work` in a thread that does not keep the process alive, and await its result.

    `asyncio.to_thread` would make the interpreter wait at exit for a download that nobody wants any more.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not future.cancelled():
            outcome()

    def run() -> None:
        outcome: Callable[[], None]
        try:
            outcome = partial(future.set_result, work())
        except BaseException as exc:  # noqa: BLE001 - it is raised again where the result is awaited
            outcome = partial(future.set_exception, exc)
        # The loop is closed if the process was told to end meanwhile.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
