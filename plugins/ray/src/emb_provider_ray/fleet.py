"""What a process that calls replicas knows of them: how many run, which deployments it uses, what it has counted."""

import contextlib
import threading
from collections import Counter as Tally
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

REGISTRY = CollectorRegistry()
"""Metrics of the ingress about its replicas."""
_OF_MODEL = ("model", "fingerprint")
ROWS = Counter("emb_provider_replica_rows", "Rows that replicas answered", _OF_MODEL, registry=REGISTRY)
RETRIES = Counter(
    "emb_provider_replica_retries", "Batches sent again after a replica was lost", _OF_MODEL, registry=REGISTRY
)
REPLICAS = Gauge("emb_provider_replicas", "Replicas that run", _OF_MODEL, registry=REGISTRY)

_LOOK_SECONDS = 0.5


class Fleet:
    """Looks how many replicas run, on a thread of its own while anybody wants to know. For any thread."""

    def __init__(self) -> None:
        """Nobody wants to know anything."""
        self._changed = threading.Condition()
        self._followers: dict[int, tuple[str, Callable[[int], None]]] = {}
        self._used: Tally[str] = Tally()
        self._thread: threading.Thread | None = None
        self._next = 0

    @property
    def used(self) -> set[str]:
        """Names of the deployments that loaded models use."""
        with self._changed:
            return {name for name, count in self._used.items() if count}

    def use(self, deployment: str) -> None:
        """A model has been loaded."""
        with self._changed:
            self._used[deployment] += 1

    def leave(self, deployment: str) -> None:
        """It was closed."""
        with self._changed:
            self._used[deployment] -= 1

    def follow(self, deployment: str, changed: Callable[[int], None]) -> Callable[[], None]:
        """Call `changed` with the number of running replicas, now and then, until the returned function is called."""
        with self._changed:
            self._next += 1
            number = self._next
            self._followers[number] = deployment, changed
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="look at replicas", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return lambda: self._unfollow(number)

    def _unfollow(self, number: int) -> None:
        with self._changed:
            self._followers.pop(number, None)

    def _look(self) -> None:
        application = serve.get_replica_context().app_name
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._followers)
            # The controller may be on its way to another node: the numbers stay as they are.
            with contextlib.suppress(RayError, RayServeException, KeyError):
                deployments = serve.status().applications[application].deployments
                with self._changed:
                    followers = tuple(self._followers.values())
                for name, changed in followers:
                    if (found := deployments.get(name)) is not None:
                        changed(found.replica_states.get("RUNNING", 0))
            threading.Event().wait(_LOOK_SECONDS)


FLEET = Fleet()
"""Of this process."""
