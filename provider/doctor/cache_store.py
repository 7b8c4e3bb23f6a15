"""The stores of the cache that are installed, and whether the configured one works."""

import asyncio
import time

import msgspec

from provider.errors import SettingsError
from provider.settings import StoreSettings
from provider.vector_stores import VectorStore, installed_stores, open_store

_KEY, _VALUE = b"doctor", b"\0" * 1536
_SECONDS = 5.0


class CacheStore(msgspec.Struct, frozen=True):
    """The store that the settings name.

    Attributes:
        name: as configured.
        installed: name of each store, and the distribution that it comes with.
        milliseconds: what looking up an entry took; None without a store, or if it does not work.
        problem: why it does not work.
    """

    name: str
    installed: dict[str, str]
    milliseconds: float | None = None
    problem: str | None = None

    @classmethod
    def configured(cls, settings: StoreSettings) -> "CacheStore":
        """Write an entry and look it up, in five seconds at most."""
        milliseconds = problem = None
        try:
            store = open_store(settings)
            milliseconds = None if store is None else asyncio.run(_tried(store))
        except SettingsError as exc:
            problem = exc.message
        except Exception as exc:  # noqa: BLE001 - whatever a store raises
            problem = " ".join(f"{type(exc).__name__}: {exc}".split())
        return cls(settings.name, installed_stores(), milliseconds, problem)


async def _tried(store: VectorStore) -> float:
    """Milliseconds of a lookup."""
    try:
        async with asyncio.timeout(_SECONDS):
            await store.set_many({_KEY: _VALUE})
            began = time.perf_counter()
            (found,) = await store.get_many([_KEY])
    finally:
        await asyncio.wait_for(store.close(), _SECONDS)
    if found != _VALUE:
        msg = "an entry that was written is not found"
        raise LookupError(msg)
    return (time.perf_counter() - began) * 1000
