"""Quotas of keys: requests and tokens in a minute of the clock, and in a day of UTC."""

import math
import threading
import time
from collections.abc import Callable, Iterable

from attrs import define, field

from provider.domain import UNLIMITED, Caller, Quota
from provider.errors import MOST_RETRY_SECONDS, LimitExceeded, QuotaExceeded, RequestRateExceeded, TokenRateExceeded
from provider.usage.database import Spent

_SECONDS = {"minute": 60, "day": 86_400}
_UNITS = ("requests", "tokens")


@define
class _Window:
    """What a caller has used in the current period; requests and tokens.

    Attributes:
        number: which period it is, counted from 1970.
        shared: in the file, of all processes.
        own: of this process, not in the file yet.
    """

    number: int
    shared: tuple[int, int] = (0, 0)
    own: tuple[int, int] = (0, 0)

    def used(self, unit: int) -> int:
        """Of all processes."""
        return self.shared[unit] + self.own[unit]

    def add(self, requests: int, tokens: int) -> None:
        """To this process's own."""
        self.own = (self.own[0] + requests, self.own[1] + tokens)


@define(eq=False)
class _Account:
    """What a caller has used, and may use.

    Attributes:
        quota: as its key has it now.
        limits: of each limit, its unit as a place in `_UNITS`, its period, and how much; days first, so that a caller
            who has used up the day is not told to come back in a minute.
        windows: by period.
    """

    quota: Quota = UNLIMITED
    limits: tuple[tuple[int, str, int], ...] = ()
    windows: dict[str, _Window] = field(factory=lambda: {period: _Window(0) for period in _SECONDS})

    def update(self, quota: Quota, now: float) -> None:
        """Take the quota over, and begin periods that have come since.

        A clock that is set back a little goes on with the period it was in; one that was far ahead begins anew.
        """
        if quota is not self.quota:
            limits = [
                (unit, period, getattr(quota, f"{name}_per_{period}"))
                for period in ("day", "minute")
                for unit, name in enumerate(_UNITS)
            ]
            self.quota, self.limits = quota, tuple(each for each in limits if each[2] is not None)
        for period, window in self.windows.items():
            if not _is_current(window.number, period, now):
                self.windows[period] = _Window(int(now // _SECONDS[period]))


class Quotas:
    """Counts what callers with a quota use. May be used from any thread.

    Several processes each count for themselves, and once a second exchange their counts through the file of usage: a
    caller may exceed its quota by what the other processes admit in that second.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Nothing is used yet; `clock` is in seconds since 1970."""
        self._clock, self._lock = clock, threading.Lock()
        self._accounts: dict[str, _Account] = {}

    def admit(self, caller: Caller) -> None:
        """Count a request.

        Raises:
            LimitExceeded: the caller has no requests, or no tokens, left; it is not counted.
        """
        self._use(caller, 1, 0)

    def charge(self, caller: Caller, tokens: int) -> None:
        """Count the tokens of a request, whatever becomes of it.

        Raises:
            LimitExceeded: the caller has fewer left; they are not counted.
        """
        if caller.quota == UNLIMITED:
            return
        self._use(caller, 0, tokens)

    def headers(self, caller: Caller) -> list[tuple[bytes, bytes]]:
        """OpenAI's `x-ratelimit-` headers: of each unit, the period of which least is left."""
        now, least = self._clock(), dict[int, tuple[int, int, float]]()
        with self._lock:
            account = self._account(caller, now)
            for unit, period, limit in account.limits:
                left = (max(0, limit - account.windows[period].used(unit)), limit, _seconds_left(period, now))
                least[unit] = min(left, least.get(unit, left))
        headers = []
        for unit, (remaining, limit, seconds) in sorted(least.items()):
            values = {"limit": str(limit), "remaining": str(remaining), "reset": _duration(seconds)}
            headers += [(f"x-ratelimit-{name}-{_UNITS[unit]}".encode(), text.encode()) for name, text in values.items()]
        return headers

    def unwritten(self) -> list[Spent]:
        """What this process has counted and not written."""
        with self._lock:
            return [
                Spent(caller, period, window.number, *window.own)
                for caller, account in self._accounts.items()
                for period, window in account.windows.items()
                if any(window.own)
            ]

    def current(self, spent: Iterable[Spent]) -> list[Spent]:
        """Without periods that are over by now, whose counts could replace newer ones, and those far ahead."""
        now = self._clock()
        return [each for each in spent if _is_current(each.number, each.period, now)]

    def exchange(self, written: Iterable[Spent], spent: Iterable[Spent]) -> None:
        """Take note of what is in the file.

        Args:
            written: of `unwritten`, what is in the file now.
            spent: of all processes, that included.
        """
        current = self.current(spent)
        with self._lock:
            for each in written:
                window = self._accounts[each.caller].windows[each.period]
                if window.number == each.number:
                    window.add(-each.requests, -each.tokens)
            for each in current:
                windows = self._accounts.setdefault(each.caller, _Account()).windows
                if windows[each.period].number < each.number:
                    windows[each.period] = _Window(each.number)
                if windows[each.period].number == each.number:
                    windows[each.period].shared = (each.requests, each.tokens)

    def _account(self, caller: Caller, now: float) -> _Account:
        account = self._accounts.get(caller.name)
        if account is None:
            account = self._accounts[caller.name] = _Account()
        account.update(caller.quota, now)
        return account

    def _use(self, caller: Caller, requests: int, tokens: int) -> None:
        now = self._clock()
        with self._lock:
            account = self._account(caller, now)
            for unit, period, limit in account.limits:
                # When a request comes its tokens are not known yet: one at least.
                requested = (requests, tokens or requests)[unit]
                used = account.windows[period].used(unit)
                if requested and used + requested > limit:
                    raise _refusal(unit, period, now, caller=caller.name, limit=limit, used=used, requested=requested)
            for window in account.windows.values():
                window.add(requests, tokens)


def _refusal(
    unit: int, period: str, now: float, *, caller: str, limit: int, used: int, requested: int
) -> LimitExceeded:
    kind: type[LimitExceeded] = QuotaExceeded
    seconds = math.ceil(_seconds_left(period, now))
    if period == "minute":
        kind = (RequestRateExceeded, TokenRateExceeded)[unit]
        seconds = min(seconds, MOST_RETRY_SECONDS)
    return kind(
        unit=_UNITS[unit],
        period=period,
        caller=caller,
        limit=limit,
        used=used,
        requested=requested,
        retry_after_seconds=max(1, seconds),
    )


def _is_current(number: int, period: str, now: float) -> bool:
    current = int(now // _SECONDS[period])
    return current <= number <= current + 1


def _seconds_left(period: str, now: float) -> float:
    return _SECONDS[period] - now % _SECONDS[period]


def _duration(seconds: float) -> str:
    """As Go writes it, and OpenAI: `8.64s`, `1m0s`."""
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{f'{hours}h' if hours else ''}{f'{minutes}m' if hours or minutes else ''}{rest:g}s"
