"""A backend without a model: its vectors are a function of the token ids, and it fails and waits on command."""

import threading
from collections.abc import Callable
from typing import ClassVar, Self

import numpy as np
from attrs import frozen

from provider.backends import BackendOptions, BackendTraits, ModelSpec, TokenBatch, Vectors
from provider.domain import Ids


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

    def __init__(self, dimension: int = 8, options: FakeOptions | None = None) -> None:
        """A fake that answers vectors of `dimension`."""
        options = options or FakeOptions()
        self._dimension, self._scale = dimension, options.scale
        self.traits = BackendTraits("cpu", "float32", options.padding_is_free, batch_tokens=512)
        self.batches: list[TokenBatch] = []
        self.gate, self.started = threading.Event(), threading.Event()
        self.gate.set()
        self.poison: int | None = None
        self.nan: int | None = None
        self.failing = False
        self.closed = 0
        self.before_embed: Callable[[TokenBatch], None] = lambda _: None

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """See `Backend.load`."""
        return cls(spec.dimension, options.own if isinstance(options.own, FakeOptions) else None)

    def vector(self, ids: Ids) -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
        """The vector (dimension,) it answers for a row."""
        seed = np.random.default_rng(ids.astype(np.uint32).tolist())
        return (seed.standard_normal(self._dimension) * self._scale).astype(np.float32)

    def embed(self, batch: TokenBatch) -> Vectors:
        """See `Backend.embed`."""
        self.batches.append(batch)
        self.started.set()
        # A test that forgets its gate fails instead of hanging.
        if not self.gate.wait(timeout=30):
            msg = "the gate stayed closed"
            raise TimeoutError(msg)
        self.before_embed(batch)
        if self.failing or (self.poison is not None and self.poison in batch.ids):
            msg = "the fake backend fails, as it was told to"
            raise RuntimeError(msg)
        vectors = np.stack([self.vector(batch.row(i)) for i in range(batch.rows)])
        if self.nan is not None:
            for i in range(batch.rows):
                if self.nan in batch.row(i):
                    vectors[i] = np.nan
        return vectors

    def close(self) -> None:
        """See `Backend.close`."""
        self.closed += 1
