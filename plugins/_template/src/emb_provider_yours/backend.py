"""The backend: what emb-provider asks for, in terms of what the engine can do."""

from typing import ClassVar, Self

import numpy as np
from attrs import frozen

from emb_provider_yours.engine import Engine
from provider.backends import (
    BackendOptions,
    BackendTraits,
    BackendUnavailable,
    Head,
    ModelSpec,
    TokenBatch,
    Vectors,
    pool,
)

_DEVICES = ("auto", "cpu")
_DTYPES = ("auto", "float32")


@frozen
class YoursOptions:
    """Options of this backend, under `options:` in `litestar.yaml`. Every field has a default.

    Attributes:
        multiple: widths of batches are rounded up to a multiple of this, so that there are few shapes.
    """

    multiple: int = 8


class YoursBackend:
    """Runs a model over a padded rectangle, and pools in numpy."""

    Options: ClassVar[type] = YoursOptions
    # Whether several threads may call `embed` of one instance at the same time.
    concurrent: ClassVar[bool] = True

    def __init__(self, spec: ModelSpec, engine: Engine, options: YoursOptions) -> None:
        """Use `load`."""
        self._spec, self._options, self._head = spec, options, Head.load(spec)
        self._engine: Engine | None = engine
        self.traits = BackendTraits(device="cpu", dtype="float32", padding_is_free=False, batch_tokens=512)

    @classmethod
    def load(cls, spec: ModelSpec, options: BackendOptions) -> Self:
        """Load the weights in `spec.folder`; see `provider.backends.Backend.load`."""
        if options.device not in _DEVICES:
            msg = f"unknown device {options.device!r}; the yours backend has {', '.join(_DEVICES)}"
            raise BackendUnavailable(msg)
        if options.dtype not in _DTYPES:
            msg = f"unknown dtype {options.dtype!r}; the yours backend has {', '.join(_DTYPES)}"
            raise BackendUnavailable(msg)
        return cls(spec, Engine.load(spec, threads=options.threads), options.own)

    def embed(self, batch: TokenBatch) -> Vectors:
        """Pooled vectors, (rows, dimension) float32; see `provider.backends.Backend.embed`."""
        engine = self._engine
        if engine is None:
            msg = "the backend is closed"
            raise RuntimeError(msg)
        ids, mask = batch.padded(pad_id=self._spec.pad_id, multiple_of=self._options.multiple)
        hidden = engine.hidden_states(ids, mask)
        return self._head(pool(np, hidden, batch.lengths, batch.skips, self._spec.pooling))

    def close(self) -> None:
        """Free the engine; see `provider.backends.Backend.close`."""
        self._engine = None
