"""Cores as the container sees them."""

import os
from pathlib import Path

import pytest

from provider.cores import ONLY_WORKER, Worker, available_cores, waited_seconds


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("9000000 100000", 8), ("?", 8)]
)
def test_a_quota_of_cgroup_v2_cuts_the_cores(tmp_path: Path, limit: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(limit)
    assert available_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [(-1, 8), (300_000, 3)])
def test_a_quota_of_cgroup_v1_cuts_the_cores(tmp_path: Path, quota: int, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(str(quota))
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert available_cores(tmp_path) == cores


def test_without_a_cgroup_the_affinity_mask_counts(tmp_path: Path) -> None:
    assert available_cores(tmp_path) == 8


@pytest.mark.parametrize(("count", "available", "share"), [(1, 8, 8), (2, 8, 4), (3, 8, 2), (8, 8, 1), (4, 2, 1)])
def test_workers_have_equal_shares_of_the_cores_that_never_add_up_to_more(
    count: int, available: int, share: int
) -> None:
    shares = [Worker(number, count).cores(available) for number in range(count)]
    assert shares == [share] * count
    assert sum(shares) <= max(available, count)


def test_the_only_process_has_all_cores() -> None:
    assert ONLY_WORKER.is_alone
    assert ONLY_WORKER.cores(8) == 8
    assert not Worker(0, 2).is_alone


def test_the_waiting_of_all_threads_is_added_and_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    for task, text in {"1": "5 1500000000 3", "2": "5 500000000 3", "3": "", "4": "a b c"}.items():
        (tmp_path / task).mkdir()
        (tmp_path / task / "schedstat").write_text(text)
    assert waited_seconds(tmp_path) == 2.0
    assert waited_seconds(tmp_path / "none") == 0.0
