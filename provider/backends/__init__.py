"""Backends: what a plugin author needs to read, and all they need to import.

A backend is a class that satisfies `Backend`, registered in the entry-point group `provider.backends`. `PaddedBackend`
is one but for the engine: it needs hidden states, and does the rest. Its parts serve other backends too: `pool` for
torch tensors and numpy arrays alike, `Head` for the steps after it, `choose_name` for devices and dtypes.
"""

from provider.backends.kit.devices import batch_tokens, choose_name, unknown_name
from provider.backends.kit.head import Head
from provider.backends.kit.padded import INPUTS, PaddedBackend, arrays_of, check_interface
from provider.backends.kit.pooling import pool
from provider.backends.protocol import (
    AdjustsThreads,
    Backend,
    BackendOptions,
    BackendTraits,
    ChecksOptions,
    FollowsLanes,
    GetsFaster,
    HasDeviceMemory,
    Memory,
    NoOptions,
    RunsPasses,
    SelectsFiles,
)
from provider.backends.registry import GROUP, find_backend, find_entry_point, installed_backends, own_options
from provider.cores import available_cores
from provider.domain import (
    DENSE,
    MULTI_VECTOR,
    SCORES,
    SPARSE,
    Features,
    ModelSpec,
    Outputs,
    SparseVector,
    TokenBatch,
    Vectors,
)
from provider.errors import BackendUnavailable, InvalidModel

__all__ = [
    "DENSE",
    "GROUP",
    "INPUTS",
    "MULTI_VECTOR",
    "SCORES",
    "SPARSE",
    "AdjustsThreads",
    "Backend",
    "BackendOptions",
    "BackendTraits",
    "BackendUnavailable",
    "ChecksOptions",
    "Features",
    "FollowsLanes",
    "GetsFaster",
    "HasDeviceMemory",
    "Head",
    "InvalidModel",
    "Memory",
    "ModelSpec",
    "NoOptions",
    "Outputs",
    "PaddedBackend",
    "RunsPasses",
    "SelectsFiles",
    "SparseVector",
    "TokenBatch",
    "Vectors",
    "arrays_of",
    "available_cores",
    "batch_tokens",
    "check_interface",
    "choose_name",
    "find_backend",
    "find_entry_point",
    "installed_backends",
    "own_options",
    "pool",
    "unknown_name",
]
