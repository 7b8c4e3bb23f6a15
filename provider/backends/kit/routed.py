"""Models whose queries and documents go different ways: two loaded backends behind one."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from provider.backends.protocol import (
    AdjustsThreads,
    Backend,
    BackendOptions,
    BackendTraits,
    FollowsLanes,
    GetsFaster,
    RunsPasses,
)
from provider.domain import ModelSpec, Outputs, RowOutput, TokenBatch


class _Routed:
    """Runs the rows of a batch that are queries on one backend, all others on another."""

    Options: ClassVar[type]
    concurrent: ClassVar[bool]
    outputs: ClassVar[frozenset[str]]
    kind: ClassVar[type[Backend]]

    def __init__(self, documents: Backend, queries: Backend) -> None:
        """Take both, loaded; they are closed with this one."""
        self._documents, self._queries = documents, queries

    @property
    def traits(self) -> BackendTraits:
        """As both have them now."""
        first, second = self._documents.traits, self._queries.traits
        return BackendTraits(
            device=first.device,
            dtype=first.dtype,
            padding_is_free=first.padding_is_free and second.padding_is_free,
            batch_tokens=first.batch_tokens,
            weights_digest=first.weights_digest + second.weights_digest,
            extra={**first.extra, "queries": {"dtype": second.dtype, **second.extra}},
            lanes=first.lanes,
            fingerprint=first.fingerprint,
        )

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Load both ways; see `Backend.load`."""
        if spec.queries is None:
            msg = f"the model {spec.name!r} has one way for queries and documents"
            raise ValueError(msg)
        with contextlib.ExitStack() as undo:
            documents = cls.kind.load(spec, options)
            undo.callback(documents.close)
            queries = cls.kind.load(spec.queries, options)
            undo.pop_all()
        return cls(documents, queries)

    def run(self, batch: TokenBatch) -> Outputs:
        """See `Backend.run`."""
        if batch.queries is None or not batch.queries.any():
            return self._documents.run(batch)
        if batch.queries.all():
            return self._queries.run(batch)
        places = (np.flatnonzero(batch.queries), np.flatnonzero(~batch.queries))
        answers = (self._queries.run(batch.take(places[0])), self._documents.run(batch.take(places[1])))
        return {name: _merged(places, [answer[name] for answer in answers]) for name in batch.outputs}

    def use_threads(self, threads: int) -> None:
        """See `AdjustsThreads.use_threads`."""
        for backend in (self._documents, self._queries):
            if isinstance(backend, AdjustsThreads):
                backend.use_threads(threads)

    def improvements(self) -> Iterator[Callable[[], None]]:
        """See `GetsFaster.improvements`."""
        for backend in (self._documents, self._queries):
            if isinstance(backend, GetsFaster):
                yield from backend.improvements()

    def follow(self, lanes: RunsPasses) -> None:
        """See `FollowsLanes.follow`; both ways run in the same processes."""
        if isinstance(self._documents, FollowsLanes):
            self._documents.follow(lanes)

    def close(self) -> None:
        """See `Backend.close`."""
        self._documents.close()
        self._queries.close()


def ways_of(spec: ModelSpec) -> tuple[ModelSpec, ...]:
    """The spec of documents and that of queries, where they differ; else the only one."""
    return (spec,) if spec.queries is None else (spec, spec.queries)


def encoders_of(kind: type[Backend]) -> frozenset[str]:
    """The values of `ModelSpec.encoder` that a backend class runs: `encoders`, or transformers where it has none."""
    found: frozenset[str] = getattr(kind, "encoders", frozenset({"transformer"}))
    return found


def class_for(kind: type[Backend], spec: ModelSpec) -> type[Backend]:
    """The class that loads the model with the backend `kind`: itself, or one that loads both ways."""
    return kind if spec.queries is None else _routed(kind)


def _routed(kind: type[Backend]) -> type[Backend]:
    facts = {"Options": kind.Options, "concurrent": kind.concurrent, "outputs": kind.outputs, "kind": kind}
    # Its own name: the vectors are those of that backend.
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": _Routed.__doc__}
    made: type[Backend] = type(kind.__name__, (_Routed,), facts | named)
    return made


def _merged(
    places: Sequence[NDArray[np.int64]], answers: Sequence[Sequence[RowOutput] | NDArray[np.float32]]
) -> Sequence[RowOutput] | NDArray[np.float32]:
    """One answer, each row at its place in the batch."""
    order = np.argsort(np.concatenate(places))
    arrays = [answer for answer in answers if isinstance(answer, np.ndarray)]
    if len(arrays) == len(answers):
        return np.ascontiguousarray(np.concatenate(arrays)[order])
    rows = [row for answer in answers for row in answer]
    return [rows[i] for i in order]
