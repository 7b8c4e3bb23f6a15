"""From a model's settings to its parts. Blocking: it runs in a thread of its own."""

import asyncio
import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
from attrs import evolve, frozen

from provider.backends import Backend, BackendOptions
from provider.backends.kit.routed import class_for, encoders_of, ways_of
from provider.backends.registry import versions_of
from provider.cores import ONLY_WORKER, Worker, available_cores, processor
from provider.domain import DenseTask, ModelSpec, QueryInput, ScoreTask, TokenBatch
from provider.engine.choosing import tell_faster
from provider.engine.finding import FoundModel, read_files
from provider.engine.limits import BatchLimits
from provider.engine.neighbours import NeighbourCheck, batching
from provider.engine.pairs import PairTokenizer, pair_tokenizer
from provider.engine.plan import LanePlan
from provider.engine.remembered import Remembered
from provider.engine.throughput import PassWatch, WatchedBackend
from provider.engine.tokenizer import Tokenizer
from provider.engine.tuning import Choices, Tuned, use_plan
from provider.errors import BackendUnavailable, InvalidModel
from provider.models.prompts import given_prompts
from provider.models.resolve import Resolved
from provider.models.weights import weight_bytes
from provider.resident import give_memory_back
from provider.settings import ModelSettings

T = TypeVar("T")


@frozen(eq=False, kw_only=True)
class ModelParts:
    """A model, loaded but not yet running.

    Attributes:
        backend_name: also with `backend: auto`.
        pairs: joins the texts of pairs; None for models without scores.
        plan: how it shares the cores.
        neighbours: which rows may share a batch, measured.
        limits: what one batch may hold.
        tuned: what was measured to choose plan and limits; None where nothing was, or not yet.
        to_tune: what there is to choose from, and where it is remembered; None where nothing is.
        notices: sentences about its files that an operator should read.
        weight_bytes: size of its weights on disk.
        fingerprint: 16 hex digits; see `_fingerprint`.
    """

    backend_name: str
    source: Resolved
    spec: ModelSpec
    notices: tuple[str, ...]
    tokenizer: Tokenizer
    pairs: PairTokenizer | None
    backend: Backend
    plan: LanePlan
    neighbours: NeighbourCheck
    limits: BatchLimits
    tuned: Tuned | None
    to_tune: Remembered | None
    weight_bytes: int
    fingerprint: str


def load_parts(
    found: FoundModel, settings: ModelSettings, worker: Worker = ONLY_WORKER, watch: PassWatch | None = None
) -> ModelParts:
    """Read, check and load a model whose files are there, for its worker's share of the machine.

    Nothing is tuned: it has what an earlier start found, or defaults; see `settling`.

    Args:
        found: the model.
        settings: of it.
        worker: whose share of the machine it gets.
        watch: sees the forward passes.

    Raises:
        ProviderError: as `find_model`.
    """
    settings, is_named = evolve(settings, backend=found.backend), settings.backend == found.backend
    source, backend_class = found.source, found.backend_class
    stamps = found.weight_stamps()
    spec, notices = read_files(source, settings)
    tokenizer = _tokenizer(spec)
    for each in {id(way): way for way in (tokenizer, tokenizer.queries)}.values():
        known = each.vocabulary
        if known.ids_without_embedding:
            first, last = known.size, known.size + known.ids_without_embedding - 1
            lost = f"the model has no embeddings for its tokenizer's ids {first} to {last}"
            notices = (*notices, f"{lost}; texts with such a token are refused")
    _check_support(settings.backend, backend_class, spec, reads_own_files=bool(source.own))
    scores = spec.find(ScoreTask)
    pairs = None
    if scores is not None:
        pairs = pair_tokenizer(tokenizer, scores, gives_types=spec.tokenizer.type_ids, name=spec.name)
    backend_class = class_for(backend_class, spec)
    cores = worker.cores(available_cores())
    plan = LanePlan.of(settings, is_concurrent=backend_class.concurrent, cores=cores)
    options = BackendOptions(
        device=settings.device,
        dtype=settings.dtype,
        threads=plan.threads,
        worker=worker.number,
        cores=cores,
        own=found.options,
    )
    backend = backend_class.load(spec, options)
    with contextlib.ExitStack() as undo:
        undo.callback(backend.close)
        if found.weight_stamps() != stamps:
            msg = f"the weights in {source.folder} changed while they were loaded; try again when they are complete"
            raise InvalidModel(msg)
        # Alone, before lanes call at once: libraries set themselves up at their first call, and in some of them two
        # threads that do so together wait for each other forever.
        # Not of padding alone: some classes look for the last token that is not padding.
        watched = WatchedBackend(backend, watch or PassWatch(time.monotonic))
        watched.run(TokenBatch.of_rows([np.array([1 if spec.pad_id == 0 else 0], np.int32)], outputs=spec.outputs))
        is_cpu = backend.traits.device == "cpu"
        if not is_cpu and settings.lanes is None:
            # More lanes than keep an accelerator busy would only take memory.
            lanes = backend.traits.lanes if backend_class.concurrent else None
            plan = LanePlan(lanes or 1, plan.threads)
        neighbours, limits = batching(watched, tokenizer, spec, settings)
        fingerprint = backend.traits.fingerprint or _fingerprint(spec, backend, found.options, settings)
        tuned = to_tune = None
        if settings.tune and is_cpu:
            plans = plan.alternatives(settings, is_concurrent=backend_class.concurrent, cores=cores)
            choices = _choices(spec, settings, plans, limits).of(backend)
            if choices.is_open:
                share = {"fingerprint": fingerprint, "processor": processor(), "cores": cores, "workers": worker.count}
                to_tune = Remembered(choices, share | versions_of(settings.backend))
                tuned = to_tune.read()
            if tuned is not None:
                plan, limits = tuned.plan, evolve(limits, max_tokens=tuned.batch_tokens)
                use_plan(backend, plan)
        if is_named and is_cpu:
            tell_faster(settings, model=spec.fingerprint)
        undo.pop_all()
    # Comparing libraries leaves memory behind that glibc would keep: 20 MiB.
    give_memory_back()
    return ModelParts(
        backend_name=found.backend,
        source=source,
        spec=spec,
        notices=(*notices, *([neighbours.notice] if neighbours.notice else [])),
        tokenizer=tokenizer,
        pairs=pairs,
        backend=backend,
        plan=plan,
        neighbours=neighbours,
        limits=limits,
        tuned=tuned,
        to_tune=to_tune,
        weight_bytes=_weight_bytes(source, spec),
        fingerprint=fingerprint,
    )


def _tokenizer(spec: ModelSpec) -> Tokenizer:
    """That of the model, which has that of queries where they go another way."""

    def loaded(
        way: ModelSpec,
        *,
        queries: Tokenizer | None = None,
        documents: Tokenizer | None = None,
        is_query: bool = False,
        filling: QueryInput | None = None,
    ) -> Tokenizer:
        return Tokenizer.from_folder(
            way.folder,
            max_tokens=way.max_tokens,
            pools_prompt=_pools_prompt(way),
            embedding_rows=way.vocabulary_size,
            spec=way.tokenizer,
            queries=queries,
            documents=documents,
            is_query=is_query,
            filling=filling,
        )

    queries = None if spec.queries is None else loaded(spec.queries, is_query=True)
    query_input = spec.tokenizer.queries
    if query_input is not None:
        most = spec.max_tokens if query_input.max_tokens is None else min(query_input.max_tokens, spec.max_tokens)
        queries = loaded(evolve(spec, max_tokens=most), is_query=True, filling=query_input)
    documents, limit = None, spec.tokenizer.document_tokens
    if limit is not None and limit < spec.max_tokens:
        documents = loaded(evolve(spec, max_tokens=limit))
    return loaded(spec, queries=queries, documents=documents)


def _check_support(name: str, backend_class: type[Backend], spec: ModelSpec, *, reads_own_files: bool) -> None:
    for way in ways_of(spec):
        if way.encoder not in encoders_of(backend_class):
            msg = (
                f"the backend {name!r} runs no {way.encoder} models, which {spec.name!r} is; choose another backend, "
                "such as torch"
            )
            raise BackendUnavailable(msg)
    if spec.queries is not None and reads_own_files:
        msg = (
            f"the backend {name!r} reads a file of its own for {spec.name!r}, whose queries go through other modules "
            "than documents; choose another backend, such as torch"
        )
        raise BackendUnavailable(msg)
    lacking = [task for task in spec.tasks if task.output not in backend_class.outputs]
    if lacking:
        msg = (
            f"the backend {name!r} gives {', '.join(sorted(backend_class.outputs))}, but the task of the model "
            f"{spec.name!r} is {lacking[0].word} ({lacking[0].output}); choose another backend, such as torch"
        )
        raise BackendUnavailable(msg)


def _pools_prompt(spec: ModelSpec) -> bool:
    dense = spec.find(DenseTask)
    return dense is None or dense.pools_prompt


def _normalizes(spec: ModelSpec) -> bool:
    dense = spec.find(DenseTask)
    return dense is None or dense.normalize


def _choices(spec: ModelSpec, settings: ModelSettings, plans: Sequence[LanePlan], limits: BatchLimits) -> Choices:
    usual = limits.max_tokens
    return Choices(
        tuple(plans),
        (usual,) if settings.max_batch_tokens else (usual, usual // 2, usual * 2),
        limits,
        max_tokens=spec.max_tokens,
        vocabulary_size=spec.vocabulary_size or 1,
        outputs=tuple(spec.outputs),
    )


def _weight_bytes(source: Resolved, spec: ModelSpec) -> int:
    """Of what the backend reads: its own files, else the safetensors."""
    if source.own:
        return sum((source.folder / name).stat().st_size for name in source.own)
    return sum(weight_bytes(way.folder) for way in ways_of(spec))


def _fingerprint(spec: ModelSpec, backend: Backend, options: object, settings: ModelSettings) -> str:
    """16 hex digits of SHA-256 over all that decides a vector.

    These are the model's files (weights, tokenizer, pooling, prompts), configured prompts, the prompt for requests that
    choose none, whether vectors keep their own length, the backend, its options and weights of its own, and the dtype;
    not where the files lie, what the model is called, or how it is batched.

    Vectors are comparable, and may share a cache entry, only under the same fingerprint.
    """
    kind = type(backend)
    traits, where = backend.traits, f"{kind.__module__}:{kind.__qualname__}"
    parts = (spec.fingerprint, spec.default_prompt, where, traits.dtype, repr(options), traits.weights_digest)
    # Only where they are used, so that other models keep their fingerprints from release to release.
    more = [f"prompts {sorted(given_prompts(settings).items())}"] if settings.prompts else []
    more += [] if _normalizes(spec) else ["own length"]
    more += [f"task {settings.task}"] if settings.task else []
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

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        return await future
    finally:
        if not future.cancelled():
            # All that it still does is to return: a process that ends now must not take it for one that works.
            thread.join()
