"""Backends: what a plugin author needs to read, and all they need to import.

A backend is a class that satisfies `Backend`, registered in the entry-point group `provider.backends`. `pool` does the
pooling for torch tensors and numpy arrays alike; `Head` does the steps after it for numpy arrays.
"""

from provider.backends.head import Head
from provider.backends.pooling import pool
from provider.backends.protocol import (
    AdjustsThreads,
    Backend,
    BackendOptions,
    BackendTraits,
    ChecksOptions,
    NoOptions,
    SelectsFiles,
)
from provider.backends.registry import GROUP, find_backend, find_entry_point, installed_backends, own_options
from provider.cores import available_cores
from provider.domain import ModelSpec, TokenBatch, Vectors
from provider.errors import BackendUnavailable, InvalidModel

__all__ = [
    "GROUP",
    "AdjustsThreads",
    "Backend",
    "BackendOptions",
    "BackendTraits",
    "BackendUnavailable",
    "ChecksOptions",
    "Head",
    "InvalidModel",
    "ModelSpec",
    "NoOptions",
    "SelectsFiles",
    "TokenBatch",
    "Vectors",
    "available_cores",
    "find_backend",
    "find_entry_point",
    "installed_backends",
    "own_options",
    "pool",
]
