"""How many replicas a load needs for a latency, and what that costs; by simulation."""

import math
from collections.abc import Callable

import msgspec
from attrs import evolve

from provider.errors import InvalidRequest
from provider.planning.load import Load, Outcome, simulate
from provider.planning.profile import CostProfile
from provider.settings import LimitSettings

# Requests of a simulation: p95 is the median of three such within some percent. Fewer where they are rare.
_REQUESTS, _LEAST_REQUESTS = 4000, 50
_LEAST_SECONDS, _MOST_SECONDS = 5.0, 120.0
# At this rate no two requests of a replica meet.
_LEAST_RATE = 1e-6
_WARM_UP_SHARE = 0.25
# Within which the rate of a replica is found.
_PRECISION = 0.02
_HOURS_PER_SECOND = 1 / 3600


class Plan(msgspec.Struct, frozen=True):
    """What serves a load.

    Attributes:
        replicas: needed, and the spare ones.
        spare: of them, may fail.
        cores: of all replicas.
        memory_bytes: of all replicas; a container's limit should leave a third more for bodies and answers.
        replica_rate: most requests a second of one replica within the latency.
        busy: share of the cores in use, all replicas there.
        p50_ms, p95_ms, p99_ms: with all replicas.
        p95_ms_without_spare: while the spare ones are gone.
        tokens_per_second: that the load has, cached ones included.
        dollars_per_hour: None without a price.
        dollars_per_billion_tokens: the same for tokens, spare replicas included.
    """

    replicas: int
    spare: int
    cores: int
    memory_bytes: int
    replica_rate: float
    busy: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p95_ms_without_spare: float
    tokens_per_second: float
    dollars_per_hour: float | None = None
    dollars_per_billion_tokens: float | None = None


def plan(
    profile: CostProfile,
    load: Load,
    *,
    p95_seconds: float,
    spare: int = 1,
    dollars: float | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Plan:
    """The fewest replicas that serve `load` within a latency, without refusing anything.

    A balancer that picks replicas at random gives each an equal part of the arrivals, again at random and independent
    of the others'. So one replica is simulated, whatever their number.

    Args:
        profile: of a replica.
        load: open loop, all replicas together.
        p95_seconds: within which 95 % of the requests are to be answered.
        spare: replicas that may fail.
        dollars: of a replica for an hour.
        on_step: called with what is about to happen.

    Raises:
        InvalidRequest: not even one request alone is answered so soon.
    """
    assert load.rate is not None  # noqa: S101 - an open loop
    on_step("simulating one replica")
    rate = capacity(profile, load, p95_seconds=p95_seconds)
    needed = math.ceil(load.rate / rate)
    replicas = needed + spare
    on_step(f"simulating one of {replicas} replicas")
    all_there, fewer = (_simulated(profile, load, load.rate / count) for count in (replicas, needed))
    tokens = load.rate * load.batch * load.mean_tokens
    cost = None if dollars is None else replicas * dollars
    return Plan(
        replicas=replicas,
        spare=spare,
        cores=replicas * profile.cores,
        memory_bytes=replicas * profile.memory_bytes,
        replica_rate=round(rate, 1),
        busy=round(all_there.busy, 3),
        p50_ms=_ms(all_there, 0.5),
        p95_ms=_ms(all_there, 0.95),
        p99_ms=_ms(all_there, 0.99),
        p95_ms_without_spare=_ms(fewer, 0.95),
        tokens_per_second=round(tokens, 1),
        dollars_per_hour=cost,
        dollars_per_billion_tokens=None if cost is None else round(cost * _HOURS_PER_SECOND / tokens * 1e9, 2),
    )


def capacity(profile: CostProfile, load: Load, *, p95_seconds: float) -> float:
    """Most requests a second that one replica answers within a latency.

    Raises:
        InvalidRequest: not even one request alone is answered so soon, or at all.
    """
    alone = _alone(profile, load)
    low, high = 0.0, _bare_rate(profile, load)
    least = _PRECISION * high
    while alone <= p95_seconds and high > least and high - low > _PRECISION * high:
        middle = (low + high) / 2
        found = _simulated(profile, load, middle)
        if found.latency(0.95) <= p95_seconds and not found.refused:
            low = middle
        else:
            high = middle
    if not low:
        alone_ms, allowed_ms = f"{1000 * alone:.0f} ms", f"--p95 {1000 * p95_seconds:g}"
        what = (
            f"and {allowed_ms} was asked for"
            if alone > p95_seconds
            else f"and those that meet another longer than {allowed_ms} or than the queue lets them wait"
        )
        msg = (
            f"one request alone takes {alone_ms}, {what}: allow more, send fewer or shorter texts, or take "
            "a faster machine or model"
        )
        raise InvalidRequest(msg)
    return low


def _alone(profile: CostProfile, load: Load) -> float:
    """Seconds within which 95 % of the requests are answered that never meet another."""
    longest = max(load.lengths)
    if 0 < profile.max_length < longest:
        msg = f"--lengths: {profile.model} takes texts of up to {profile.max_length} tokens, not of {longest}"
        raise InvalidRequest(msg)
    limits = LimitSettings()
    if load.batch > limits.max_inputs:
        msg = f"--batch {load.batch}: a request has at most {limits.max_inputs} texts (limits.max_inputs)"
        raise InvalidRequest(msg)
    alone = evolve(load, rate=None, concurrency=1)
    found = simulate(profile, alone, seconds=5, warm_up=1)
    if not found.latencies:
        # One lane, a pass for each text: it does not take longer than that.
        seconds = load.batch * profile.pass_seconds([longest]) + profile.server.seconds(load.batch)
        found = simulate(profile, alone, seconds=2 * seconds, warm_up=0)
    return found.latency(0.95)


def _bare_rate(profile: CostProfile, load: Load) -> float:
    """Requests a second if nothing ever waited, and every batch were full."""
    length, rows = round(load.mean_tokens), profile.max_rows
    rows = max(1, min(rows, profile.max_tokens // length))
    texts = load.batch * (1 - load.cached)
    forward = texts * profile.pass_seconds([length] * rows) / rows / profile.lanes
    return 1 / max(forward, profile.server.seconds(load.batch))


def _simulated(profile: CostProfile, load: Load, rate: float) -> Outcome:
    rate = max(rate, _LEAST_RATE)
    most = max(_MOST_SECONDS, _LEAST_REQUESTS / rate)
    seconds = min(most, max(_LEAST_SECONDS, _REQUESTS / rate))
    return simulate(profile, evolve(load, rate=rate), seconds=seconds, warm_up=_WARM_UP_SHARE * seconds)


def _ms(outcome: Outcome, share: float) -> float:
    return round(1000 * outcome.latency(share), 1)
