"""Quotas: what is refused, for how long, and what several processes know of each other."""

from pathlib import Path

import pytest

from provider.domain import Caller, Quota
from provider.errors import LimitExceeded, QuotaExceeded, RequestRateExceeded, TokenRateExceeded
from provider.usage.database import Counts
from provider.usage.quotas import Quotas
from provider.usage.recorder import UsageRecorder

DAY = 86_400
NOON = 20_000.5 * DAY


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quotas(clock: Clock) -> Quotas:
    return Quotas(clock)


def caller(name: str = "a", **limits: int) -> Caller:
    return Caller(name, quota=Quota(**limits))


def refusal(quotas: Quotas, who: Caller, tokens: int | None = None) -> LimitExceeded:
    with pytest.raises(LimitExceeded) as caught:
        quotas.admit(who) if tokens is None else quotas.charge(who, tokens)
    return caught.value


def test_requests_of_a_minute_come_back_with_the_next_one(quotas: Quotas, clock: Clock) -> None:
    who = caller(requests_per_minute=2)
    clock.now += 18.5
    quotas.admit(who)
    quotas.admit(who)
    refused = refusal(quotas, who)
    assert isinstance(refused, RequestRateExceeded)
    assert (refused.used, refused.limit, refused.retry_after_seconds) == (2, 2, 42)
    quotas.admit(caller("b", requests_per_minute=2))
    clock.now += 41.5
    quotas.admit(who)


def test_tokens_are_refused_as_a_whole_and_a_used_up_quota_before_they_are_counted(
    quotas: Quotas, clock: Clock
) -> None:
    who = caller(tokens_per_minute=10)
    quotas.charge(who, 8)
    refused = refusal(quotas, who, 3)
    assert isinstance(refused, TokenRateExceeded)
    assert (refused.used, refused.requested) == (8, 3)
    quotas.admit(who)
    quotas.charge(who, 2)
    assert isinstance(refusal(quotas, who), TokenRateExceeded)
    # Clients ignore 60 seconds.
    assert refusal(quotas, who).retry_after_seconds == 59
    clock.now += 60
    quotas.admit(who)


def test_a_day_s_quota_says_when_the_day_ends(quotas: Quotas, clock: Clock) -> None:
    who = caller(requests_per_day=1, requests_per_minute=1)
    quotas.admit(who)
    refused = refusal(quotas, who)
    assert isinstance(refused, QuotaExceeded)
    assert refused.retry_after_seconds == DAY // 2
    clock.now += DAY // 2
    quotas.admit(who)


def test_headers_tell_of_the_period_of_which_least_is_left(quotas: Quotas, clock: Clock) -> None:
    who = caller(requests_per_minute=3, requests_per_day=100, tokens_per_day=1000)
    clock.now += 0.25
    quotas.admit(who)
    quotas.charge(who, 1)
    assert dict(quotas.headers(who)) == {
        b"x-ratelimit-limit-requests": b"3",
        b"x-ratelimit-remaining-requests": b"2",
        b"x-ratelimit-reset-requests": b"59.75s",
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"999",
        b"x-ratelimit-reset-tokens": b"11h59m59.75s",
    }


def test_callers_without_a_quota_leave_nothing(quotas: Quotas) -> None:
    quotas.charge(Caller("free"), 5)
    assert quotas.unwritten() == []
    assert quotas.headers(Caller("free")) == []


def test_a_clock_that_was_far_ahead_locks_nobody_out(tmp_path: Path, clock: Clock) -> None:
    who, path = caller(requests_per_minute=2, requests_per_day=2), tmp_path / "usage"
    clock.now += 30 * DAY
    ahead = UsageRecorder(path, quotas := Quotas(clock))
    quotas.admit(who)
    quotas.admit(who)
    ahead.flush()
    for back in (2 * DAY, 28 * DAY):
        # The same process, and one that starts.
        clock.now -= back
        recorder = UsageRecorder(path, later := Quotas(clock))
        quotas.admit(who)
        ahead.flush()
        later.admit(who)
        recorder.flush()
        ahead.flush()
        assert {refusal(each, who).used for each in (quotas, later)} == {2}
        recorder.close()
    ahead.close()


def test_a_count_that_is_written_late_replaces_no_newer_one(tmp_path: Path, clock: Clock) -> None:
    who, path = caller(requests_per_minute=2), tmp_path / "usage"
    late = UsageRecorder(path, held_up := Quotas(clock))
    prompt = UsageRecorder(path, quotas := Quotas(clock))
    held_up.admit(who)
    clock.now += 120
    quotas.admit(who)
    quotas.admit(who)
    prompt.flush()
    late.flush()
    started = UsageRecorder(path, later := Quotas(clock))
    assert [refusal(each, who).used for each in (quotas, later)] == [2, 2]
    for each in (late, prompt, started):
        each.close()


def test_a_clock_that_is_set_back_a_little_gives_nothing_twice(quotas: Quotas, clock: Clock) -> None:
    who = caller(requests_per_minute=1)
    quotas.admit(who)
    clock.now -= 1
    assert refusal(quotas, who).used == 1


def test_processes_that_share_a_file_count_together_from_one_exchange_to_the_next(tmp_path: Path, clock: Clock) -> None:
    who = caller(requests_per_minute=10, tokens_per_day=100)
    both = [Quotas(clock), Quotas(clock)]
    recorders = [UsageRecorder(tmp_path / "usage", each) for each in both]
    for quotas in both:
        for _ in range(4):
            quotas.admit(who)
        quotas.charge(who, 30)
    for recorder in (*recorders, recorders[0]):
        recorder.flush()
    for quotas in both:
        assert dict(quotas.headers(who))[b"x-ratelimit-remaining-requests"] == b"2"
        assert refusal(quotas, who, 41).used == 60
    both[0].admit(who)
    both[0].admit(who)
    recorders[0].flush()
    both[1].admit(who)  # not known of yet
    recorders[1].flush()
    assert isinstance(refusal(both[1], who), RequestRateExceeded)
    # A process that starts knows what was used; the next minute begins with nothing.
    third = Quotas(clock)
    recorders.append(UsageRecorder(tmp_path / "usage", third))
    assert refusal(third, who).used == 11
    clock.now += 60
    third.admit(who)
    recorders[2].flush()
    both[0].admit(who)
    recorders[0].flush()
    assert dict(both[0].headers(who))[b"x-ratelimit-remaining-requests"] == b"8"
    assert refusal(both[0], who, 41).used == 60
    for recorder in recorders:
        recorder.close()


def test_counts_and_quotas_of_a_failed_write_are_written_by_the_next(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    who, quotas = caller(requests_per_minute=10), Quotas(clock)
    recorder = UsageRecorder(tmp_path / "usage", quotas)
    database = recorder._database

    def fail() -> None:
        msg = "disk I/O error"
        raise sqlite3.OperationalError(msg)

    quotas.admit(who)
    recorder.add("a", "m", Counts(requests=1))
    with monkeypatch.context() as patch:
        # It is written, and the error comes after.
        patch.setattr(database, "spent", fail)
        for _ in range(2):
            with pytest.raises(sqlite3.OperationalError):
                recorder.flush()
    quotas.admit(who)
    recorder.add("a", "m", Counts(requests=1))
    for _ in range(3):
        recorder.flush()
    assert [(each.caller, each.counts.requests) for each in database.read(["caller"])] == [("a", 2)]
    assert {each.requests for each in database.spent()} == {2}
    assert dict(quotas.headers(who))[b"x-ratelimit-remaining-requests"] == b"8"
    recorder.close()
