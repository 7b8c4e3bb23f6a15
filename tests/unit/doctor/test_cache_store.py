"""The configured store is tried."""

from pathlib import Path

from provider.doctor.cache_store import CacheStore
from provider.settings import StoreSettings


def test_a_store_that_works_has_a_time(tmp_path: Path) -> None:
    found = CacheStore.configured(StoreSettings("disk", str(tmp_path / "vectors.sqlite")))
    assert found.problem is None
    assert found.milliseconds is not None
    assert found.milliseconds > 0


def test_a_store_that_does_not_work_has_a_reason(tmp_path: Path) -> None:
    found = CacheStore.configured(StoreSettings("disk", str(tmp_path / "none" / "vectors.sqlite")))
    assert "its folder has to exist" in (found.problem or "")
    assert "there is no store" in (CacheStore.configured(StoreSettings("tape")).problem or "")


def test_without_a_store_there_is_nothing_to_try() -> None:
    found = CacheStore.configured(StoreSettings())
    assert (found.name, found.milliseconds, found.problem) == ("memory", None, None)
