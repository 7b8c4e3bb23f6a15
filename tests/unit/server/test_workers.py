"""Whether workers fit the machine, and how soon one is started again."""

from typing import Any

import pytest

from provider.errors import SettingsError
from provider.server.preflight import check_workers
from provider.server.supervisor import Backoff
from provider.settings import ModelSettings, ServerSettings, Settings


def settings(workers: int, *models: ModelSettings) -> Settings:
    first, *further = models or (ModelSettings(),)
    return Settings(server=ServerSettings(workers=workers), model=first, models=further)


@pytest.mark.parametrize(
    ("workers", "fields"),
    [
        (1, {}),
        (1, {"lanes": 8, "threads_per_lane": 8}),
        (4, {}),
        (2, {"lanes": 2}),
        (2, {"threads_per_lane": 2}),
        (4, {"lanes": 1, "threads_per_lane": 1}),
    ],
)
def test_workers_that_fit_the_cores_are_fine_and_one_process_may_do_as_it_likes(workers: int, fields: Any) -> None:
    check_workers(settings(workers, ModelSettings(**fields)), cores=4)


def test_more_workers_than_cores_is_an_error_that_says_how_many_there_are() -> None:
    with pytest.raises(SettingsError, match=r"server\.workers: got 5, .* may use 4 cores.*set it to at most 4"):
        check_workers(settings(5), cores=4)


@pytest.mark.parametrize("fields", [{"lanes": 3}, {"threads_per_lane": 3}, {"lanes": 2, "threads_per_lane": 2}])
def test_threads_of_all_workers_never_exceed_the_cores_whichever_model_asks_for_them(fields: Any) -> None:
    further = ModelSettings("further", **fields)
    with pytest.raises(SettingsError, match=r"'further': lanes \(.\) x threads_per_lane \(.\) x server\.workers \(2\)"):
        check_workers(settings(2, ModelSettings("first"), further), cores=4)


def test_a_worker_that_dies_again_and_again_is_started_less_and_less_often() -> None:
    backoff = Backoff()
    pauses = [backoff.pause(lived_seconds=1) for _ in range(9)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert backoff.pause(lived_seconds=3600) == 0.5
    assert backoff.pause(lived_seconds=1) == 1
