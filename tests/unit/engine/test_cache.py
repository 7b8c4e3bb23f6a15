"""The cache is bounded in bytes and time, and keyed by what the vector depends on."""

import tracemalloc

import numpy as np

from provider.domain import CacheKey, Features, Timings, Usage
from provider.engine.cache import CachedResponse, OutputCache
from provider.engine.hooks import RequestAnswered
from provider.engine.rows import Row
from provider.settings import CacheSettings
from provider.testing import TickingClock


def key(*ids: int, fingerprint: str = "f", skip: int = 0) -> CacheKey:
    return CacheKey(fingerprint, Features(np.array(ids, np.int32), skip).digest())


def landed(cache: OutputCache, at: CacheKey, vector: list[float]) -> None:
    row = Row(Features(np.array([1], np.int32)), key=at)
    row.settle(outputs={"dense": np.array(vector, np.float32)})
    cache.keep(row)


def test_a_vector_is_found_until_its_time_is_over() -> None:
    clock = TickingClock()
    cache = OutputCache(CacheSettings(ttl_seconds=60), clock)
    landed(cache, key(1, 2), [1.0, 2.0])
    clock.advance(59)
    np.testing.assert_array_equal(cache.get(key(1, 2))["dense"], [1.0, 2.0])
    clock.advance(2)
    assert cache.get(key(1, 2)) is None


def test_the_key_holds_model_ids_and_what_is_left_out_of_pooling() -> None:
    keys = {key(1, 2), key(1, 3), key(1, 2, fingerprint="g"), key(1, 2, skip=1)}
    assert len(keys) == 4
    assert key(1, 2) == key(1, 2)


def test_memory_stays_within_the_bound() -> None:
    cache = OutputCache(CacheSettings(max_bytes=10_000))
    for i in range(100):
        landed(cache, key(i), [float(i)] * 100)
    assert 0 < cache.nbytes <= 10_000
    assert cache.get(key(99)) is not None
    assert cache.get(key(0)) is None


def test_the_tables_of_a_full_cache_are_counted_when_they_double() -> None:
    most = 4_000_000
    cache = OutputCache(CacheSettings(max_bytes=most))
    vector, apart = [1.0] * 96, []
    tracemalloc.start()
    try:
        for i in range(9_000):
            landed(cache, key(i), vector)
            assert cache.nbytes <= most
            if i >= 2_600 and i % 100 == 0:
                apart.append(tracemalloc.get_traced_memory()[0] - cache.nbytes)
    finally:
        tracemalloc.stop()
    assert max(apart) - min(apart) < 0.02 * most


def test_a_cache_without_room_keeps_nothing() -> None:
    cache = OutputCache(CacheSettings(max_bytes=0))
    landed(cache, key(1), [1.0])
    assert cache.get(key(1)) is None


def test_switched_off_it_neither_keeps_nor_shares() -> None:
    cache = OutputCache(CacheSettings(enabled=False))
    row = Row(Features(np.array([1], np.int32)), key=key(1))
    cache.add_pending(row)
    assert cache.pending(key(1)) is None
    landed(cache, key(1), [1.0])
    assert cache.get(key(1)) is None


def test_what_is_kept_is_a_copy_that_nobody_can_write_to() -> None:
    cache = OutputCache(CacheSettings())
    row = Row(Features(np.array([1], np.int32)), key=key(1))
    batch = np.ones((2, 3), np.float32)
    row.settle(outputs={"dense": batch[0]})
    cache.keep(row)
    batch[:] = 9
    kept = cache.get(key(1))
    assert kept is not None
    np.testing.assert_array_equal(kept["dense"], [1, 1, 1])
    assert not kept["dense"].flags.writeable


def test_a_vector_that_is_not_finite_is_not_kept() -> None:
    cache = OutputCache(CacheSettings())
    landed(cache, key(1), [float("nan")])
    assert cache.get(key(1)) is None


def response(at: CacheKey, size: int = 100) -> CachedResponse:
    return CachedResponse("sent", size, at, RequestAnswered("m", Usage(1, 3, 1), 0, Timings()))


def test_a_response_goes_with_the_outputs_in_it() -> None:
    clock = TickingClock()
    cache = OutputCache(CacheSettings(ttl_seconds=60), clock)
    landed(cache, key(1), [1.0])
    clock.advance(30)
    cache.keep_response(b"digest", response(key(1)))
    clock.advance(29)
    assert cache.response(b"digest") is not None
    clock.advance(2)
    assert cache.response(b"digest") is None


def test_outputs_whose_response_is_sent_are_in_use() -> None:
    cache = OutputCache(CacheSettings(max_bytes=10_000))
    landed(cache, key(1), [1.0])
    cache.keep_response(b"digest", response(key(1)))
    for i in range(2, 50):
        landed(cache, key(i), [1.0] * 100)
        assert cache.response(b"digest") is not None


def test_responses_are_within_the_bound_of_memory_too() -> None:
    cache = OutputCache(CacheSettings(max_bytes=10_000))
    landed(cache, key(1), [1.0])
    for i in range(50):
        cache.keep_response(b"%d" % i, response(key(1), size=2_000))
        assert cache.nbytes <= 10_000
        assert cache.response(b"%d" % i) is not None
    assert cache.response(b"0") is None
    cache.keep_response(b"large", response(key(1), size=20_000))
    assert cache.response(b"large") is None
