"""From a model's settings to its parts. Blocking: it runs in a thread of its own."""

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from attrs import evolve, frozen

from provider.backends import Backend, BackendOptions, SelectsFiles, find_backend, find_entry_point, own_options
from provider.cores import available_cores
from provider.domain import ALONE, ModelSpec, TokenBatch, Worker
from provider.engine.batcher import BatchLimits
from provider.engine.neighbours import NEIGHBOUR_TEXT, NeighbourCheck, check_neighbours
from provider.engine.plan import LanePlan
from provider.engine.tokenizer import Tokenizer
from provider.engine.tuning import Tuned, tune
from provider.errors import InvalidInput, InvalidModel
from provider.models.resolve import Resolved, resolve
from provider.models.selection import SelectFiles, nothing_more
from provider.models.spec import read_spec
from provider.models.weights import weight_bytes
from provider.settings import HubSettings, ModelSettings

T = TypeVar("T")


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
        plan: how it shares the cores.
        neighbours: which rows may share a batch, measured.
        limits: what one batch may hold.
        tuned: what was measured to choose plan and limits; None where nothing was.
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
    neighbours: NeighbourCheck
    limits: BatchLimits
    tuned: Tuned | None
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
    select_more = _selection(settings, backend_class, own)
    source = resolve(settings, hub, select_more=select_more, progress=show_progress, notify=notify_download)
    return FoundModel(source, backend_class, own)


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


def _selection(settings: ModelSettings, backend_class: type[Backend], own: object) -> SelectFiles:
    if not issubclass(backend_class, SelectsFiles):
        return nothing_more
    select = backend_class.select_files
    options = BackendOptions(device=settings.device, dtype=settings.dtype, own=own)
    return lambda names: select(names, options)


def load_parts(found: FoundModel, settings: ModelSettings, worker: Worker = ALONE) -> ModelParts:
    """Read, check and load a model whose files are there, for its worker's share of the machine.

    Raises:
        ProviderError: as `find_model`.
    """
    source, backend_class, own = found.source, found.backend_class, found.own
    spec, notices = read_spec(
        source.folder,
        name=settings.served_name,
        max_context_length=settings.max_context_length,
        default_prompt=settings.default_prompt,
        prompts=settings.prompts,
        normalize=settings.normalize,
        # A backend that found files of its own reads a graph that needs no class.
        needs_class=not source.own,
    )
    tokenizer = Tokenizer.from_folder(
        spec.folder,
        max_tokens=spec.max_tokens,
        pools_prompt=spec.pools_prompt,
        embedding_rows=spec.vocabulary_size,
        spec=spec.tokenizer,
    )
    if tokenizer.ids_without_row:
        first = tokenizer.vocabulary_size
        lost = f"the model has no embeddings for its tokenizer's ids {first} to {first + tokenizer.ids_without_row - 1}"
        notices = (*notices, f"{lost}; texts with such a token are refused")
    cores = worker.cores(available_cores())
    plan = LanePlan.of(settings, is_concurrent=backend_class.concurrent, cores=cores)
    options = BackendOptions(
        device=settings.device, dtype=settings.dtype, threads=plan.threads, worker=worker.number, own=own
    )
    backend = backend_class.load(spec, options)
    with contextlib.ExitStack() as undo:
        undo.callback(backend.close)
        # Alone, before lanes call at once: libraries set themselves up at their first call, and in some of them two
        # threads that do so together wait for each other forever.
        # Not of padding alone: some classes look for the last token that is not padding.
        backend.embed(TokenBatch.of_rows([np.array([1 if spec.pad_id == 0 else 0], np.int32)]))
        is_cpu = backend.traits.device == "cpu"
        if not is_cpu and settings.lanes is None:
            # One lane keeps an accelerator busy; a second would only take memory.
            plan = LanePlan(1, plan.threads)
        neighbours, limits = batching(backend, tokenizer, spec, settings)
        tuned = None
        if settings.tune and is_cpu:
            plans = plan.alternatives(settings, is_concurrent=backend_class.concurrent, cores=cores)
            tuned = _tuned(spec, backend, settings, plans, limits)
            plan, limits = tuned.plan, evolve(limits, max_tokens=tuned.batch_tokens)
        undo.pop_all()
    return ModelParts(
        source,
        spec,
        (*source.notices, *notices, *([neighbours.notice] if neighbours.notice else [])),
        tokenizer,
        backend,
        plan,
        neighbours,
        limits,
        tuned,
        weight_bytes=_weight_bytes(source, spec),
        fingerprint=_fingerprint(spec, backend, own, settings),
    )


def batching(
    backend: Backend, tokenizer: Tokenizer, spec: ModelSpec, settings: ModelSettings
) -> tuple[NeighbourCheck, BatchLimits]:
    """Which rows of a loaded backend may share a batch, measured, and what a batch may hold therefore.

    Raises:
        InvalidModel: as `check_neighbours`.
    """
    try:
        (text,) = tokenizer.encode([NEIGHBOUR_TEXT], truncate="end")
    except InvalidInput as exc:
        msg = f"the tokenizer in {spec.folder} does not encode usual text such as {NEIGHBOUR_TEXT[:19]!r}: {exc.reason}"
        raise InvalidModel(msg) from exc
    neighbours = check_neighbours(
        backend,
        text.ids,
        max_tokens=spec.max_tokens,
        vocabulary_size=tokenizer.vocabulary_size,
        pad_id=spec.pad_id,
    )
    return neighbours, BatchLimits(
        max_rows=1 if neighbours.allowed == "none" else settings.max_batch_size,
        max_tokens=settings.max_batch_tokens or backend.traits.batch_tokens,
        padding_is_free=backend.traits.padding_is_free,
        equal_lengths=neighbours.allowed == "equal_length",
    )


def _tuned(
    spec: ModelSpec, backend: Backend, settings: ModelSettings, plans: Sequence[LanePlan], limits: BatchLimits
) -> Tuned:
    usual = limits.max_tokens
    return tune(
        backend,
        plans=plans,
        batch_tokens=[usual] if settings.max_batch_tokens else [usual, usual // 2, usual * 2],
        limits=limits,
        max_tokens=spec.max_tokens,
        vocabulary_size=spec.vocabulary_size or 1,
    )


def _weight_bytes(source: Resolved, spec: ModelSpec) -> int:
    """Of what the backend reads: its own files, else the safetensors."""
    if source.own:
        return sum((source.folder / name).stat().st_size for name in source.own)
    return weight_bytes(spec.folder)


def _fingerprint(spec: ModelSpec, backend: Backend, own: object, settings: ModelSettings) -> str:
    """16 hex digits of SHA-256 over all that decides a vector.

    These are the model's files (weights, tokenizer, pooling, prompts), configured prompts, the prompt for requests that
    choose none, whether vectors keep their own length, the backend, its options and weights of its own, and the dtype;
    not where the files lie, what the model is called, or how it is batched.

    Vectors are comparable, and may share a cache entry, only under the same fingerprint.
    """
    kind = type(backend)
    traits, where = backend.traits, f"{kind.__module__}:{kind.__qualname__}"
    parts = (spec.fingerprint, spec.default_prompt, where, traits.dtype, repr(own), traits.weights_digest)
    # Only where they are used, so that other models keep their fingerprints from release to release.
    more = [f"prompts {sorted(settings.prompts.items())}"] if settings.prompts else []
    more += [] if spec.normalize else ["own length"]
    return hashlib.sha256("\0".join((*parts, *more)).encode()).hexdigest()[:16]


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
