"""Stores of cached outputs: what a plugin author needs to read, and all they need to import.

A store is a class that satisfies `VectorStore`, registered in the entry-point group `provider.vector_stores`. It keeps
outputs of models for other processes and over restarts. It is no vector database: nothing is searched.
"""

from provider.errors import SettingsError
from provider.vector_stores.protocol import NoOptions, StoreOptions, VectorStore
from provider.vector_stores.registry import GROUP, find_store, installed_stores, open_store

__all__ = [
    "GROUP",
    "NoOptions",
    "SettingsError",
    "StoreOptions",
    "VectorStore",
    "find_store",
    "installed_stores",
    "open_store",
]
