"""A backend without a model, which fails and waits on command, and a clock that a test moves."""

import threading
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np
from attrs import frozen

from provider.backends import BackendOptions, BackendTraits, choose_name
from provider.domain import (
    DENSE,
    MULTI_VECTOR,
    SCORES,
    SPARSE,
    DenseTask,
    Ids,
    ModelSpec,
    MultiVectorTask,
    Outputs,
    ScoreTask,
    SparseVector,
    TokenBatch,
    Vectors,
)

_GATE_SECONDS = 240


@frozen
class FakeOptions:
    """Options of the fake backend.

    Attributes:
        scale: factor on every vector.
        padding_is_free: what it says of itself.
    """

    scale: float = 1.0
    padding_is_free: bool = False


class FakeBackend:
    """Deterministic vectors without a model; for tests of everything around a backend.

    Attributes:
        batches: every batch it was given, in order.
        gate: clear it to hold forward passes, set it to let them go.
        started: set when a forward pass begins; a test waits for it and clears it.
        poison: a row holding this token id fails its whole batch.
        nan: a row holding this token id comes out as NaN.
        failing: while True every forward pass fails.
        closed: how often `close` was called.
    """

    Options: ClassVar[type] = FakeOptions
    concurrent: ClassVar[bool] = True
    outputs: ClassVar[frozenset[str]] = frozenset({DENSE, SPARSE, MULTI_VECTOR, SCORES})

    def __init__(
        self, dimension: int = 8, options: FakeOptions | None = None, labels: int = 1, token_dimension: int = 8
    ) -> None:
        """A fake that answers vectors of `dimension`, token vectors of `token_dimension` and a logit for each label."""
        options = options or FakeOptions()
        self._dimension, self._scale, self._labels = dimension, options.scale, labels
        self._token_dimension = token_dimension
        self.traits = BackendTraits("cpu", "float32", options.padding_is_free, batch_tokens=512)
        self.batches: list[TokenBatch] = []
        self.gate, self.started = threading.Event(), threading.Event()
        self.gate.set()
        self.poison: int | None = None
        self.nan: int | None = None
        self.failing = False
        self.closed = 0
        self.before_run: Callable[[TokenBatch], None] = lambda _: None

    @classmethod
    def check_options(cls, options: BackendOptions) -> None:
        """See `ChecksOptions.check_options`."""
        choose_name("device", options.device, ("cpu",))
        choose_name("dtype", options.dtype, ("float32",))

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """See `Backend.load`."""
        cls.check_options(options)
        own = options.own if isinstance(options.own, FakeOptions) else None
        dense, multi, score = spec.find(DenseTask), spec.find(MultiVectorTask), spec.find(ScoreTask)
        return cls(
            dense.dimension if dense else 8,
            own,
            labels=len(score.labels) if score else 1,
            token_dimension=multi.dimension if multi else 8,
        )

    def vector(self, ids: Ids) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        """The vector (dimension,) it answers for a row."""
        return self._drawn(ids, self._dimension)

    def _drawn(self, ids: Ids, numbers: int) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        seed = np.random.default_rng(ids.astype(np.uint32).tolist())
        return (seed.standard_normal(numbers) * self._scale).astype(np.float32)

    def run(self, batch: TokenBatch) -> Outputs:
        """See `Backend.run`."""
        if self.closed:
            msg = "the backend is closed"
            raise RuntimeError(msg)
        self.batches.append(batch)
        self.started.set()
        # A test that forgets its gate fails instead of hanging.
        if not self.gate.wait(timeout=_GATE_SECONDS):
            msg = "the gate stayed closed"
            raise TimeoutError(msg)
        self.before_run(batch)
        if self.failing or (self.poison is not None and self.poison in batch.ids):
            msg = "the fake backend fails, as it was told to"
            raise RuntimeError(msg)
        outputs: dict[str, Any] = {}
        if DENSE in batch.outputs:
            outputs[DENSE] = self.vectors(batch)
        if SCORES in batch.outputs:
            outputs[SCORES] = np.repeat(self.vectors(batch)[:, :1], self._labels, axis=1)
        if SPARSE in batch.outputs:
            rows = [np.unique(batch.row(i), return_counts=True) for i in range(batch.rows)]
            outputs[SPARSE] = [SparseVector(ids, counts.astype(np.float32)) for ids, counts in rows]
        if MULTI_VECTOR in batch.outputs:
            outputs[MULTI_VECTOR] = [
                np.stack([self._drawn(token, self._token_dimension) for token in batch.row(i)[:, None]])
                for i in range(batch.rows)
            ]
        return outputs

    def vectors(self, batch: TokenBatch) -> Vectors:
        """The dense vectors (rows, dimension) that it answers for `batch`."""
        vectors = np.stack([self.vector(batch.row(i)) for i in range(batch.rows)])
        if self.nan is not None:
            for i in range(batch.rows):
                if self.nan in batch.row(i):
                    vectors[i] = np.nan
        return vectors

    def close(self) -> None:
        """See `Backend.close`."""
        self.closed += 1


class TickingClock:
    """A monotonic clock for tests. Call it for the time in seconds; `advance` moves it.

    Attributes:
        tick: seconds that every look at the clock takes; 0 for a clock that stands still.
    """

    def __init__(self, now: float = 1000.0, *, tick: float = 0.0) -> None:
        """Start at `now`."""
        self.now, self.tick = now, tick

    def __call__(self) -> float:
        """The time."""
        self.now += self.tick
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds
