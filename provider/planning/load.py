"""Simulated load on simulated replicas: who asks what and when, which replica gets it, and what came of it."""

import random
from array import array
from collections.abc import Callable
from functools import partial
from typing import Literal

from attrs import define, field, frozen

from provider.bench.figures import percentile
from provider.planning.events import Cores, Events, Thread
from provider.planning.profile import CostProfile
from provider.planning.replica import Replica

Balancing = Literal["random", "round-robin", "least-requests"]


@frozen
class Load:
    """What clients send.

    Attributes:
        batch: texts of a request.
        lengths: tokens of a text, special tokens included: each as likely as the others.
        rate: requests a second, all replicas together, at random as from many callers (open loop); or
        concurrency: requests under way at any time (closed loop). One of the two is None.
        cached: share of the texts whose vectors are in the cache.
    """

    batch: int
    lengths: tuple[int, ...]
    rate: float | None = None
    concurrency: int | None = None
    cached: float = 0.0

    @property
    def mean_tokens(self) -> float:
        """Of a text."""
        return sum(self.lengths) / len(self.lengths)


@define
class Outcome:
    """What came of a load, its first part left out.

    Attributes:
        seconds: that were simulated and are counted.
        latencies: seconds of each answered request.
        texts: in those.
        refused: requests that got 429.
        busy: share of the replicas' cores that was used.
    """

    seconds: float
    latencies: "array[float]" = field(factory=lambda: array("d"))
    texts: int = 0
    refused: int = 0
    busy: float = 0.0

    @property
    def texts_per_second(self) -> float:
        """Answered."""
        return self.texts / self.seconds

    @property
    def refused_share(self) -> float:
        """Of the requests."""
        return self.refused / max(1, self.refused + len(self.latencies))

    def latency(self, share: float) -> float:
        """Seconds within which that share of the answered requests was answered; infinite if none was."""
        return percentile(sorted(self.latencies), share) if self.latencies else float("inf")


class Fleet:
    """Replicas, each on a machine of its own or all on one, and a balancer before them."""

    def __init__(
        self,
        events: Events,
        profile: CostProfile,
        replicas: int,
        *,
        lanes: int | None = None,
        on: Cores | None = None,
        balancing: Balancing = "random",
        seed: int = 0,
    ) -> None:
        """They serve at once.

        Args:
            events: the clock.
            profile: what things cost.
            replicas: how many.
            lanes: of each; None for those of the profile.
            on: the machine that all share, as workers do; None: each has the profile's cores.
            balancing: `random` is what Kubernetes' services do with new connections; `least-requests` picks the
                better of two at random, as Envoy does.
            seed: of the balancer.
        """
        self.machines = [on] if on else [Cores(events, profile.cores) for _ in range(replicas)]
        self.replicas = [
            Replica(events, profile, self.machines[i % len(self.machines)], lanes=lanes or profile.lanes)
            for i in range(replicas)
        ]
        self._balancing, self._chance, self._turn = balancing, random.Random(seed), 0  # noqa: S311 - no secret
        self._events, self._profile = events, profile

    def add(self, replicas: int) -> None:
        """So many more, on machines of their own, have become ready."""
        for _ in range(replicas):
            self.machines.append(Cores(self._events, self._profile.cores))
            self.replicas.append(Replica(self._events, self._profile, self.machines[-1], lanes=self._profile.lanes))

    def pick(self) -> Replica:
        """The replica that gets the next request."""
        if self._balancing == "round-robin":
            self._turn += 1
            return self.replicas[self._turn % len(self.replicas)]
        first = self._chance.choice(self.replicas)
        if self._balancing == "random":
            return first
        return min(first, self._chance.choice(self.replicas), key=lambda replica: replica.under_way)

    def busy_seconds(self) -> float:
        """Of all cores together."""
        return sum(machine.busy_seconds for machine in self.machines)


class Clients:
    """Send a load to a fleet and note what comes of it."""

    def __init__(
        self, events: Events, load: Load, fleet: Fleet, *, sends: Callable[[Callable[[], None]], None], seed: int
    ) -> None:
        """Nothing is sent until `run`.

        Args:
            events: the clock.
            load: what to send.
            fleet: where to.
            sends: calls what it is given once the client has made a request, or read an answer.
            seed: of arrivals and lengths.
        """
        self._events, self._load, self._fleet, self._sends = events, load, fleet, sends
        self._chance = random.Random(seed)  # noqa: S311 - no secret
        self._until = self._counted_from = 0.0
        self._outcome = Outcome(0.0)

    def run(self, seconds: float, warm_up: float) -> Outcome:
        """Send for `warm_up` and then `seconds`, which are counted; wait for nothing that is under way then."""
        self._counted_from, self._until = warm_up, warm_up + seconds
        self._outcome = Outcome(seconds)
        if self._load.rate is not None:
            self._send_at_random()
        for turn in range(self._load.concurrency or 0):
            self._send(self._fleet.replicas[turn % len(self._fleet.replicas)])
        self._events.run(warm_up)
        busy = self._fleet.busy_seconds()
        self._events.run(self._until)
        cores = len(self._fleet.machines) * self._fleet.machines[0].count
        self._outcome.busy = (self._fleet.busy_seconds() - busy) / seconds / cores
        return self._outcome

    def _send_at_random(self) -> None:
        assert self._load.rate is not None  # noqa: S101 - an open loop
        at = self._events.now + self._chance.expovariate(self._load.rate)
        if at < self._until:
            self._events.at(at, self._send_one_at_random)

    def _send_one_at_random(self) -> None:
        self._send(self._fleet.pick())
        self._send_at_random()

    def _send(self, replica: Replica) -> None:
        chance, load = self._chance, self._load
        lengths = [chance.choice(load.lengths) for _ in range(load.batch) if chance.random() >= load.cached]
        done = partial(self._answered, replica, self._events.now)
        self._sends(lambda: replica.ask(lengths, done, texts=load.batch))

    def _answered(self, replica: Replica, since: float, is_answered: bool) -> None:  # noqa: FBT001 - see `Done`
        self._sends(lambda: self._read(replica, since, is_answered=is_answered))

    def _read(self, replica: Replica, since: float, *, is_answered: bool) -> None:
        now = self._events.now
        if self._counted_from <= now <= self._until:
            if is_answered:
                self._outcome.latencies.append(now - since)
                self._outcome.texts += self._load.batch
            else:
                self._outcome.refused += 1
        if self._load.concurrency is not None and now < self._until:
            self._send(replica)


def simulate(
    profile: CostProfile,
    load: Load,
    *,
    replicas: int = 1,
    balancing: Balancing = "random",
    seconds: float = 20.0,
    warm_up: float = 5.0,
    seed: int = 0,
) -> Outcome:
    """Replicas on machines of their own, clients elsewhere."""
    events = Events()
    fleet = Fleet(events, profile, replicas, balancing=balancing, seed=seed)
    return Clients(events, load, fleet, sends=lambda send: send(), seed=seed).run(seconds, warm_up)


def simulate_local(
    profile: CostProfile,
    load: Load,
    *,
    workers: int = 1,
    seconds: float = 20.0,
    warm_up: float = 5.0,
    seed: int = 0,
) -> Outcome:
    """Workers of one server and a load generator, all on the cores of one machine: what `emb-provider bench` sees."""
    events = Events()
    cores = Cores(events, profile.cores)
    lanes = max(1, profile.lanes // workers)
    fleet = Fleet(events, profile, workers, lanes=lanes, on=cores, balancing="round-robin", seed=seed)
    generator, half = Thread(cores), profile.client.seconds(load.batch) / 2
    clients = Clients(events, load, fleet, sends=partial(_through, generator, half), seed=seed)
    return clients.run(seconds, warm_up)


def _through(generator: Thread, seconds: float, send: Callable[[], None]) -> None:
    generator.run(seconds, send)
