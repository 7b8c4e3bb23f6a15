"""The cache is bounded in bytes and time, and keyed by what the vector depends on."""

import numpy as np

from provider.domain import CacheKey
from provider.engine.cache import VectorCache
from provider.engine.rows import Row
from provider.settings import CacheSettings
from provider.testing import TickingClock


def key(*ids: int, fingerprint: str = "f", skip: int = 0) -> CacheKey:
    return CacheKey.of(fingerprint, np.array(ids, np.int32), skip)


def landed(cache: VectorCache, at: CacheKey, vector: list[float]) -> None:
    row = Row(np.array([1], np.int32), key=at)
    row.settle(vector=np.array(vector, np.float32))
    cache.lands(row)


def test_a_vector_is_found_until_its_time_is_over() -> None:
    clock = TickingClock()
    cache = VectorCache(CacheSettings(ttl_seconds=60), clock)
    landed(cache, key(1, 2), [1.0, 2.0])
    clock.advance(59)
    np.testing.assert_array_equal(cache.get(key(1, 2)), [1.0, 2.0])
    clock.advance(2)
    assert cache.get(key(1, 2)) is None


def test_the_key_holds_model_ids_and_what_is_left_out_of_pooling() -> None:
    keys = {key(1, 2), key(1, 3), key(1, 2, fingerprint="g"), key(1, 2, skip=1)}
    assert len(keys) == 4
    assert key(1, 2) == key(1, 2)


def test_memory_stays_within_the_bound() -> None:
    cache = VectorCache(CacheSettings(max_bytes=10_000))
    for i in range(100):
        landed(cache, key(i), [float(i)] * 100)
    assert 0 < cache.bytes <= 10_000
    assert cache.get(key(99)) is not None
    assert cache.get(key(0)) is None


def test_a_cache_without_room_keeps_nothing() -> None:
    cache = VectorCache(CacheSettings(max_bytes=0))
    landed(cache, key(1), [1.0])
    assert cache.get(key(1)) is None


def test_switched_off_it_neither_keeps_nor_shares() -> None:
    cache = VectorCache(CacheSettings(enabled=False))
    row = Row(np.array([1], np.int32), key=key(1))
    cache.takes_off(row)
    assert cache.in_flight(key(1)) is None
    landed(cache, key(1), [1.0])
    assert cache.get(key(1)) is None


def test_what_is_kept_is_a_copy_that_nobody_can_write_to() -> None:
    cache = VectorCache(CacheSettings())
    row = Row(np.array([1], np.int32), key=key(1))
    batch = np.ones((2, 3), np.float32)
    row.settle(vector=batch[0])
    cache.lands(row)
    batch[:] = 9
    kept = cache.get(key(1))
    assert kept is not None
    np.testing.assert_array_equal(kept, [1, 1, 1])
    assert not kept.flags.writeable


def test_a_vector_that_is_not_finite_is_not_kept() -> None:
    cache = VectorCache(CacheSettings())
    landed(cache, key(1), [float("nan")])
    assert cache.get(key(1)) is None
