"""An example backend: feature hashing, without a model and without dependencies.

Every token id has a pseudo-random direction of +1 and -1 (the "sign" hash of Weinberger et al., "Feature Hashing for
Large Scale Multitask Learning", 2009); a row's vector is the sum over its tokens.
"""

from typing import ClassVar, Self

import numpy as np
from attrs import frozen

from provider.backends import (
    DENSE,
    BackendOptions,
    BackendTraits,
    ModelSpec,
    Outputs,
    TokenBatch,
    Vectors,
    choose_name,
)


@frozen
class ExampleOptions:
    """Options of this backend, under `options:` in `litestar.yaml`.

    Attributes:
        seed: another seed gives other directions.
    """

    seed: int = 0


class ExampleBackend:
    """Feature hashing of token ids."""

    Options: ClassVar[type] = ExampleOptions
    concurrent: ClassVar[bool] = True
    outputs: ClassVar[frozenset[str]] = frozenset({DENSE})

    def __init__(self, dimension: int, seed: int) -> None:
        """Use `load`."""
        self._dimension, self._seed, self._is_closed = dimension, seed, False
        self.traits = BackendTraits(device="cpu", dtype="float32", padding_is_free=True, batch_tokens=4096)

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Nothing to load: only the model's tokenizer and width are used."""
        choose_name("device", options.device, ["cpu"])
        choose_name("dtype", options.dtype, ["float32"])
        return cls(spec.dense.dimension, options.own.seed)

    def run(self, batch: TokenBatch) -> Outputs:
        """Sum the directions of each row's tokens."""
        if self._is_closed:
            msg = "the backend is closed"
            raise RuntimeError(msg)
        vectors = np.empty((batch.rows, self._dimension), np.float32)
        for i in range(batch.rows):
            pooled = batch.row(i)[batch.skips[i] :]
            vectors[i] = self._directions(pooled).sum(axis=0)
        return {DENSE: vectors}

    def close(self) -> None:
        """There is nothing to free; see `Backend.close`."""
        self._is_closed = True

    def _directions(self, ids: "np.ndarray[tuple[int], np.dtype[np.int32]]") -> Vectors:
        """One direction a token, (tokens, dimension), of +1 and -1: the top bit of a multiplicative hash."""
        token = ids.astype(np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
        column = (np.arange(self._dimension, dtype=np.uint64) + np.uint64(self._seed) + np.uint64(1))[None, :]
        mixed = (token ^ (column * np.uint64(0xC2B2AE3D27D4EB4F))) * np.uint64(0xFF51AFD7ED558CCD)
        mixed ^= mixed >> np.uint64(33)
        return np.where(mixed & np.uint64(1), 1.0, -1.0).astype(np.float32)
