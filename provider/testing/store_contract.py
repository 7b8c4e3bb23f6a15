"""The `VectorStore` protocol as tests, for a plugin's tests to inherit.

    class TestMyStore(VectorStoreContract):
        store_class = MyStore

        @pytest.fixture
        def options(self) -> StoreOptions:
            return StoreOptions(url="…")

pytest with pytest-asyncio is needed.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import pytest
import pytest_asyncio
from attrs import evolve

from provider.vector_stores import StoreOptions, VectorStore

OpenStore = Callable[..., VectorStore]
"""`open_store(**changes)`: a store with `options`, changed; closed at the end of the test."""

_SECONDS = 60
_LARGE = bytes(range(256)) * 4096


class VectorStoreContract:
    """Every store passes these tests.

    Attributes:
        store_class: the store.
        is_shared: whether two stores with the same options have the same entries.
        survives: whether entries are there after all stores were closed.
        is_bounded: whether `max_bytes` is honoured.
    """

    store_class: ClassVar[type[VectorStore]]
    is_shared: ClassVar[bool] = True
    survives: ClassVar[bool] = True
    is_bounded: ClassVar[bool] = False

    @pytest.fixture
    def options(self) -> StoreOptions:
        """What the store is opened with; nobody else may use the same file or server at the time."""
        return StoreOptions()

    @pytest_asyncio.fixture
    async def open_store(self, options: StoreOptions) -> AsyncIterator[OpenStore]:
        """Opens stores."""
        opened: list[VectorStore] = []

        def opening(**changes: Any) -> VectorStore:  # noqa: ANN401 - fields of StoreOptions
            opened.append(self.store_class.open(evolve(options, **changes)))
            return opened[-1]

        yield opening
        for each in opened:
            await each.close()

    @pytest_asyncio.fixture
    async def store(self, open_store: OpenStore) -> VectorStore:
        """An open store."""
        return open_store()

    async def test_it_is_a_store(self, store: VectorStore) -> None:
        """It has all methods, and `Options`."""
        assert isinstance(store, VectorStore)

    async def test_what_was_set_is_found_in_the_order_of_the_keys(self, store: VectorStore) -> None:
        """One value a key, None for what is not there; a key may come twice."""
        await store.set_many({b"a": b"1", b"b": b"2"})
        assert list(await store.get_many([b"b", b"c", b"a", b"b"])) == [b"2", None, b"1", b"2"]

    async def test_the_last_value_counts(self, store: VectorStore) -> None:
        """A value replaces the one before."""
        await store.set_many({b"a": b"1"})
        await store.set_many({b"a": b"2", b"b": b"3"})
        assert list(await store.get_many([b"a", b"b"])) == [b"2", b"3"]

    async def test_nothing_in_nothing_out(self, store: VectorStore) -> None:
        """Calls without keys are no error."""
        await store.set_many({})
        assert list(await store.get_many([])) == []

    async def test_keys_and_values_are_any_bytes(self, store: VectorStore) -> None:
        """Nothing is text; values may be empty, or a megabyte."""
        entries = {bytes([0, 255, 10, 13, 32]): b"", b"a b*?[]%\r\n": _LARGE, b"k" * 200: b"\0\r\n$-1\r\n"}
        await store.set_many(entries)
        assert dict(zip(entries, await store.get_many(list(entries)), strict=True)) == entries

    async def test_many_at_once(self, store: VectorStore) -> None:
        """A thousand entries in one call."""
        entries = {b"%d" % i: b"%d" % i * 300 for i in range(1000)}
        await store.set_many(entries)
        assert list(await store.get_many(list(entries))) == list(entries.values())

    async def test_calls_overlap(self, store: VectorStore) -> None:
        """Calls do not disturb each other."""

        async def use(i: int) -> list[bytes | None]:
            await store.set_many({b"%d" % i: b"%d" % i})
            return list(await store.get_many([b"%d" % i, b"none"]))

        assert await asyncio.gather(*(use(i) for i in range(30))) == [[b"%d" % i, None] for i in range(30)]

    async def test_a_cancelled_call_harms_no_other(self, store: VectorStore) -> None:
        """A value that comes for a call that was given up must not be taken for the next call's."""
        await store.set_many({b"%d" % i: b"%d" % i for i in range(50)})
        for i in range(50):
            call = asyncio.ensure_future(store.get_many([b"%d" % i]))
            for _ in range(i % 7):
                await asyncio.sleep(0)
            call.cancel()
            assert list(await store.get_many([b"%d" % (49 - i)])) == [b"%d" % (49 - i)]
            await asyncio.gather(call, return_exceptions=True)

    async def test_entries_end_with_their_time(self, open_store: OpenStore) -> None:
        """`ttl_seconds` is honoured."""
        store = open_store(ttl_seconds=1.0)
        await store.set_many({b"a": b"1"})
        async with asyncio.timeout(_SECONDS):
            while list(await store.get_many([b"a"])) != [None]:  # noqa: ASYNC110 - the store's own clock decides
                await asyncio.sleep(0.05)

    async def test_stores_share_their_entries(self, open_store: OpenStore) -> None:
        """As `is_shared` says."""
        one, other = open_store(), open_store()
        await one.set_many({b"a": b"1"})
        assert list(await other.get_many([b"a"])) == [b"1" if self.is_shared else None]

    async def test_entries_survive(self, open_store: OpenStore, options: StoreOptions) -> None:
        """As `survives` says."""
        first = self.store_class.open(options)
        await first.set_many({b"a": b"1"})
        await first.close()
        assert list(await open_store().get_many([b"a"])) == [b"1" if self.survives else None]

    async def test_new_entries_take_the_place_of_old_ones(self, open_store: OpenStore) -> None:
        """The newest entry is kept and, where `is_bounded`, few others."""
        store = open_store(**({"max_bytes": 2**21} if self.is_bounded else {}))
        for i in range(100):
            await store.set_many({b"%d" % i: _LARGE[: 2**16]})
        kept = [value is not None for value in await store.get_many([b"%d" % i for i in range(100)])]
        assert kept[-1]
        assert kept == sorted(kept)
        assert not self.is_bounded or 8 <= sum(kept) <= 32
