"""The seam to what keeps cached outputs beside a process's own memory: bytes in, bytes out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from attrs import frozen


@frozen
class NoOptions:
    """For stores without options of their own."""


@frozen
class StoreOptions:
    """What a store is told of the settings `cache.store`.

    Attributes:
        path: a file; None where none is set.
        url: of a server; None where none is set. It may hold a password: it belongs in no log and no error.
        max_bytes: most bytes of all entries; None: as the store has it.
        ttl_seconds: how long an entry is kept.
        timeout_seconds: a lookup that takes longer is cancelled, and the store is skipped for a while.
        own: an instance of the store's `Options`.
    """

    path: Path | None = None
    url: str | None = None
    max_bytes: int | None = None
    ttl_seconds: float = 604_800.0
    timeout_seconds: float = 0.1
    own: Any = NoOptions()


@runtime_checkable
class VectorStore(Protocol):
    """Keeps values under keys for a while. It may lose any of them at any time; it must not mix them up.

    The class is registered in the entry-point group `provider.vector_stores` under the name that `cache.store.name`
    has. Values are checked by whoever reads them: what was damaged, or written by somebody else, is not used.

    All methods but `open` are called on one event loop, which they must not block. A lookup and a write may overlap,
    and so may a cancelled call and the next one. What they raise is logged, and the store is skipped until a lookup
    works.

    Attributes:
        Options: the class (attrs) of its own options, from `cache.store.options`.
    """

    Options: ClassVar[type]

    @classmethod
    def open(cls, options: StoreOptions) -> Self:
        """A store; a server is not connected to before the first call, and need not be there.

        Raises:
            SettingsError: what is set is not what the store needs; the message names the setting.
        """
        ...

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """The value of each key, in the order of `keys`; None for what is not there, or is too old."""
        ...

    async def set_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Keep every value under its key, instead of what was there."""
        ...

    async def close(self) -> None:
        """Give everything back. No other call comes after it."""
        ...
