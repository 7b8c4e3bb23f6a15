"""The stores that come with the product keep the contract, and the disk's bound, damage and settings are handled."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from provider.errors import SettingsError
from provider.settings import StoreSettings
from provider.testing import FakeVectorStore, VectorStoreContract
from provider.vector_stores import StoreOptions, find_store, installed_stores, open_store
from provider.vector_stores.disk import DiskStore


class TestFake(VectorStoreContract):
    store_class = FakeVectorStore

    @pytest.fixture
    def options(self, request: pytest.FixtureRequest) -> StoreOptions:
        return StoreOptions(url=request.node.nodeid)


class TestDisk(VectorStoreContract):
    store_class = DiskStore
    is_bounded = True

    @pytest.fixture
    def options(self, tmp_path: Path) -> StoreOptions:
        return StoreOptions(path=tmp_path / "vectors.sqlite")


def remove(path: Path) -> None:
    for each in path.parent.iterdir():
        each.unlink()


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


async def test_the_file_stays_within_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    store = DiskStore.open(StoreOptions(path=path, max_bytes=2**21))
    for size in (200, 1_600, 2_200, 40_000):
        for first in range(0, 3_000_000 // size, 128):
            await store.set_many({b"%d %d" % (size, first + i): bytes(size) for i in range(128)})
    assert list(await store.get_many([b"40000 127", b"200 0"])) == [bytes(40_000), None]
    await store.close()
    assert path.stat().st_size <= 2**21
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_value_that_is_large_for_the_bound_is_not_kept(tmp_path: Path) -> None:
    store = DiskStore.open(StoreOptions(path=tmp_path / "vectors.sqlite", max_bytes=2**20))
    await store.set_many({b"small": b"1", b"large": bytes(2**19)})
    assert list(await store.get_many([b"small", b"large"])) == [b"1", None]
    await store.close()


async def test_a_removed_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    store = DiskStore.open(StoreOptions(path=path))
    await store.set_many({b"a": b"1"})
    remove(path)
    assert list(await store.get_many([b"a"])) == [None]
    await store.set_many({b"a": b"2"})
    assert list(await store.get_many([b"a"])) == [b"2"]
    await store.close()


async def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "vectors.sqlite"
    first = DiskStore.open(StoreOptions(path=path))
    await first.set_many({b"%d" % i: bytes(3_000) for i in range(300)})
    await first.close()
    store = DiskStore.open(StoreOptions(path=path))
    damage(path)
    with pytest.raises(sqlite3.DatabaseError):
        await store.get_many([b"7"])
    assert list(await store.get_many([b"7"])) == [None]
    await store.set_many({b"7": b"1"})
    assert list(await store.get_many([b"7"])) == [b"1"]
    await store.close()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"name": "disk"}, r"cache\.store\.path: the store disk needs a file"),
        ({"name": "disk", "path": "{}/x", "url": "redis://"}, r"cache\.store\.url: the store disk takes none"),
        ({"name": "disk", "path": "{}/x", "max_bytes": 5}, r"cache\.store\.max_bytes: got 5; .* at least 1048576"),
        ({"name": "disk", "path": "{}/none/x"}, r"cache\.store\.path: cannot write .*; its folder has to exist"),
        ({"name": "disk", "path": "{}/x", "options": {"a": 1}}, "options.a: unknown option of the store 'disk'"),
        ({"path": "{}/x"}, r"cache\.store\.path: set, but cache\.store\.name is memory"),
        ({"name": "tape"}, "there is no store 'tape'; installed are: memory, disk"),
    ],
)
def test_settings_that_are_wrong_are_told(tmp_path: Path, given: dict[str, Any], says: str) -> None:
    given = {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in given.items()}
    with pytest.raises(SettingsError, match=says):
        open_store(StoreSettings(**given))


def test_another_program_s_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (a)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(SettingsError, match=r"cache\.store\.path: the database .* is another program's"):
        open_store(StoreSettings("disk", str(path)))
    assert path.read_bytes() == before


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    (folder / "yours-1.0.dist-info").mkdir(parents=True)
    (folder / "yours-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: yours\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(folder))
    return folder / "yours-1.0.dist-info" / "entry_points.txt"


def test_a_distribution_adds_a_store(site: Path) -> None:
    site.write_text("[provider.vector_stores]\nyours = provider.testing:FakeVectorStore\n")
    assert installed_stores()["yours"] == "yours 1.0"
    assert find_store("yours") is FakeVectorStore
    assert isinstance(open_store(StoreSettings("yours", url="x")), FakeVectorStore)


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ("yours = nowhere:Store\n", r"the store 'yours' \(nowhere:Store, from yours 1.0\) cannot be imported"),
        ("yours = pathlib:Path\n", "is no store: it has no Options, get_many, set_many, close"),
    ],
)
def test_what_is_no_store_is_told(site: Path, points: str, says: str) -> None:
    site.write_text(f"[provider.vector_stores]\n{points}")
    with pytest.raises(SettingsError, match=says):
        find_store("yours")
