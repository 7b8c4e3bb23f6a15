"""The settings of the cache and its store."""

from typing import Any

from attrs import field, frozen

from provider.settings.declaration import option

MEMORY = "memory"
"""The name of no store: outputs are in the process's own memory alone."""


@frozen
class StoreSettings:
    """Where cached outputs are kept beside the process's own memory: for other processes, and over restarts."""

    name: str = option(
        MEMORY,
        "memory (the process's own alone), disk, or a plugin's, such as redis: those that `emb-provider doctor` lists",
    )
    path: str | None = option(None, "file of disk, on a local disk; all workers of a machine share it", path=True)
    url: str | None = option(None, "address of a server, such as redis://localhost:6379/0", secret=True)
    max_bytes: int | None = option(
        None, "most bytes of the file; the oldest entries go first; none: 1 GiB (redis has a limit of its own)", least=1
    )
    ttl_seconds: float = option(604_800.0, "seconds an entry is kept", least=1)
    timeout_ms: int = option(
        100,
        "most milliseconds that a request waits for it; a store that is slower is skipped until it is back",
        least=1,
    )
    options: dict[str, Any] = option({}, "the store's own options, by name")


@frozen
class CacheSettings:
    """Vectors of inputs seen before, by model fingerprint and token ids."""

    enabled: bool = option(True, "whether vectors are kept, and equal inputs in flight embedded once")
    max_bytes: int = option(256 * 1024 * 1024, "most memory for cached vectors and responses, in bytes", least=0)
    ttl_seconds: float = option(3600.0, "seconds a vector is kept", least=0)
    store: StoreSettings = field(factory=StoreSettings)

    @property
    def has_store(self) -> bool:
        """Whether outputs are kept beside the process's own memory."""
        return self.enabled and self.store.name != MEMORY
