"""Cached outputs in Redis, or in a server that speaks its protocol: shared by machines."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from attrs import frozen
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from provider.vector_stores import SettingsError, StoreOptions

# The engine gives up a lookup much sooner; a write may take longer.
_SOCKET_SECONDS = 1.0


@frozen
class RedisOptions:
    """Options of the store.

    Attributes:
        prefix: before every key.
    """

    prefix: str = "emb-provider:"


class RedisStore:
    """One `MGET` a lookup, one pipeline of `SET … PX` a write. The server bounds its memory itself (`maxmemory`)."""

    Options: ClassVar[type] = RedisOptions

    def __init__(self, client: Any, *, prefix: str, ttl_seconds: float) -> None:  # noqa: ANN401 - redis has two kinds
        """Use `open`."""
        self._client, self._prefix = client, prefix.encode()
        self._ttl_ms = max(1, round(ttl_seconds * 1000))

    @classmethod
    def open(cls, options: StoreOptions) -> Self:
        """See `VectorStore.open`."""
        if options.url is None:
            msg = "cache.store.url: the store redis needs its server's address, such as redis://localhost:6379/0"
            raise SettingsError(msg)
        for name, value in (("path", options.path), ("max_bytes", options.max_bytes)):
            if value is not None:
                hint = "; the server has its own bound: maxmemory and maxmemory-policy" if name == "max_bytes" else ""
                msg = f"cache.store.{name}: the store redis takes none{hint}"
                raise SettingsError(msg)
        own = options.own if isinstance(options.own, RedisOptions) else RedisOptions()
        seconds = max(_SOCKET_SECONDS, options.timeout_seconds)
        try:
            client = Redis.from_url(
                options.url,
                protocol=2,
                socket_timeout=seconds,
                socket_connect_timeout=seconds,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as exc:
            # Not the URL itself: it may hold a password.
            msg = f"cache.store.url: expected redis://, rediss:// or unix://, then the server's address: {exc}"
            raise SettingsError(msg) from exc
        return cls(client, prefix=own.prefix, ttl_seconds=options.ttl_seconds)

    async def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """See `VectorStore.get_many`."""
        if not keys:
            return []
        values: list[bytes | None] = await self._client.mget([self._prefix + key for key in keys])
        return values

    async def set_many(self, entries: Mapping[bytes, bytes]) -> None:
        """See `VectorStore.set_many`."""
        async with self._client.pipeline(transaction=False) as pipeline:
            for key, value in entries.items():
                pipeline.set(self._prefix + key, value, px=self._ttl_ms)
            await pipeline.execute()

    async def close(self) -> None:
        """See `VectorStore.close`."""
        await self._client.aclose()
