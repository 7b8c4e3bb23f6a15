"""What this process and its container say of memory, and garbage."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from provider.resident import memory_limit, resident_bytes, settle_garbage


def test_resident_size_grows_with_what_is_written_to() -> None:
    before = resident_bytes()
    block = np.ones(64 << 20, np.uint8)
    assert resident_bytes() - before >= 0.9 * block.nbytes


@pytest.mark.parametrize(
    ("name", "content", "limit"),
    [
        ("memory.max", "4294967296\n", 4 << 30),
        ("memory.max", "max\n", None),
        ("memory/memory.limit_in_bytes", "1073741824\n", 1 << 30),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", None),
        ("memory.current", "1", None),
    ],
)
def test_the_limit_is_that_of_the_container_whichever_version_it_has(
    tmp_path: Path, name: str, content: str, limit: int | None
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    assert memory_limit(tmp_path) == limit


def test_a_system_that_does_not_say_has_size_0_and_no_limit(tmp_path: Path) -> None:
    assert resident_bytes(tmp_path / "statm") == 0
    assert memory_limit(tmp_path) is None


@pytest.fixture
def collector() -> Iterator[None]:
    yield
    gc.unfreeze()


class _Node:
    def __init__(self) -> None:
        self.me = self


@pytest.mark.usefixtures("collector")
def test_what_there_is_stays_out_of_collections_until_it_is_garbage_at_the_next_settling() -> None:
    garbage = weakref.ref(_Node())
    lives = [_Node()]
    settle_garbage()
    assert garbage() is None
    assert all(each is not lives for each in gc.get_objects())
    lived = weakref.ref(lives.pop())
    gc.collect()
    assert lived() is not None
    settle_garbage()
    assert lived() is None
