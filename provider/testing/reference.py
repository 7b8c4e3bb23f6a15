"""The vectors that every backend is compared with."""

from collections.abc import Callable

import numpy as np

from provider.backends import BackendOptions, ModelSpec, TokenBatch, Vectors, find_backend, own_options


def plain_torch(spec: ModelSpec) -> Callable[[TokenBatch], Vectors]:
    """The model of `spec` in eager PyTorch: float32, on the CPU, one row at a time, so that nothing is padded.

    Returns:
        A function from a batch to its vectors, (rows, dimension) float32.
    """
    torch_backend = find_backend("torch")
    own = own_options("torch", torch_backend, {"packed": False, "attention": "eager"})
    plain = torch_backend.load(spec, BackendOptions(device="cpu", dtype="float32", own=own))
    return lambda batch: row_by_row(plain.embed, batch)


def row_by_row(embed: Callable[[TokenBatch], Vectors], batch: TokenBatch) -> Vectors:
    """The rows of `batch`, each embedded in a batch of its own."""
    alone = (TokenBatch.of_rows([batch.row(i)], batch.skips[i : i + 1].tolist()) for i in range(batch.rows))
    return np.concatenate([embed(each) for each in alone])
