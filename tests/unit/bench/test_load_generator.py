"""Load and what is measured of it: closed and open loops, latencies, failures; by a clock that ticks when told."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import repeat

import pytest
from waiting import PATIENCE_SECONDS

from provider.bench.connection import Pool
from provider.bench.load_generator import TIMEOUT, Done, LoadGenerator
from provider.bench.messages import Load, Outcome, Slice
from provider.endpoint import Endpoint, error_message
from provider.errors import InvalidRequest
from provider.testing import TickingClock


class Target:
    """Answers soon; each request takes as long as `takes` says, by the clock."""

    def __init__(self, clock: TickingClock, takes: Iterator[float], error: str | None = None) -> None:
        self.messages = {error: "no"} if error else {}
        self.most = 0
        self._clock, self._takes, self._error, self._open = clock, takes, error, 0

    def begin(self, done: Done) -> None:
        self._open += 1
        self.most = max(self.most, self._open)
        self._clock.advance(next(self._takes))
        asyncio.get_running_loop().call_soon(self._answer, done)

    def _answer(self, done: Done) -> None:
        self._open -= 1
        done(None if self._error else 3, self._error)

    def abandon(self) -> None:
        raise AssertionError


class Silent:
    """Never answers."""

    def __init__(self) -> None:
        self.messages: dict[str, str] = {}
        self._open: list[Done] = []

    def begin(self, done: Done) -> None:
        self._open.append(done)

    def abandon(self) -> None:
        for done in self._open:
            done(None, TIMEOUT)


async def test_a_closed_loop_sends_the_next_request_when_one_is_answered() -> None:
    clock = TickingClock()
    target = Target(clock, repeat(0.25))
    outcome = await LoadGenerator(target, Slice(Load(32, concurrency=1), 1.0, seed=1), clock).run()
    assert (outcome.requests, outcome.texts, outcome.tokens, outcome.seconds) == (4, 128, 12, 1.0)
    assert outcome.latencies_us == [250_000] * 4
    assert target.most == 1


async def test_a_closed_loop_keeps_as_many_requests_under_way_as_asked_and_waits_for_all_of_them() -> None:
    clock = TickingClock()
    target = Target(clock, repeat(0.25))
    outcome = await LoadGenerator(target, Slice(Load(1, concurrency=3), 1.5, seed=1), clock).run()
    assert target.most == 3
    assert outcome.requests >= 6
    assert outcome.seconds >= 1.5


async def test_latencies_of_an_open_loop_count_from_when_requests_were_due() -> None:
    """The first request holds everything up for a second; those that were due meanwhile have waited, and it shows."""
    clock = TickingClock()
    target = Target(clock, iter([1.0, 0.0, 0.0, 0.0, 0.0]))
    load = Load(1, rate=10, arrivals="even")
    outcome = await LoadGenerator(target, Slice(load, 0.5, seed=1), clock).run()
    assert outcome.latencies_us == [1_000_000, 900_000, 800_000, 700_000, 600_000]
    assert outcome.lateness_us == 900_000
    assert (outcome.requests, outcome.seconds) == (5, 1.0)


async def test_an_open_loop_sends_whether_or_not_answers_come() -> None:
    load = Load(1, rate=200, arrivals="even")
    # Each look at the clock takes longer than the pause between two requests: all are sent before the time is up.
    outcome = await LoadGenerator(Silent(), Slice(load, 0.05, seed=1, timeout=0.05), TickingClock(tick=0.01)).run()
    assert outcome.errors == {TIMEOUT: 10}


async def test_what_is_not_answered_in_time_is_counted_as_such() -> None:
    outcome = await LoadGenerator(Silent(), Slice(Load(1, concurrency=2), 0.01, seed=1, timeout=0.01)).run()
    assert (outcome.requests, outcome.errors, outcome.latencies_us) == (0, {TIMEOUT: 2}, [])


async def test_failures_are_counted_by_kind_and_are_no_throughput() -> None:
    clock = TickingClock()
    target = Target(clock, repeat(0.25), error="429")
    outcome = await LoadGenerator(target, Slice(Load(1, concurrency=1), 1.0, seed=1), clock).run()
    assert (outcome.requests, outcome.texts, outcome.tokens) == (0, 0, None)
    assert (outcome.errors, outcome.messages) == ({"429": 4}, {"429": "no"})


Answer = bytes | None


@asynccontextmanager
async def answering(*answers: Answer) -> AsyncIterator[tuple[Endpoint, list[bytes]]]:
    """A server that gives these answers in turn, over and over; None closes the connection instead."""
    requests: list[bytes] = []
    connections: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        while True:
            try:
                requests.append(await reader.readexactly(len(REQUEST)))
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            answer = answers[(len(requests) - 1) % len(answers)]
            if answer is None:
                break
            # In two parts, of which the first ends anywhere.
            writer.write(answer[:50])
            await writer.drain()
            writer.write(answer[50:])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Endpoint.of(f"http://127.0.0.1:{port}/v1"), requests
    finally:
        server.close()
        for connection in connections:
            connection.close()
            await connection.wait_closed()


REQUEST = b"POST /v1/embeddings HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
GOOD_BODY = b'{"data": [' + b"1," * 500 + b'1], "usage": {"prompt_tokens": 5, "total_tokens": 7}}'


def http(status: int, body: bytes, *headers: str) -> bytes:
    head = "".join(f"{each}\r\n" for each in (f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", *headers))
    return head.encode() + b"\r\n" + body


async def load_on(*answers: Answer, concurrency: int = 1) -> tuple[Outcome, int]:
    """What comes of about fifty requests, by a clock that ticks with each of them, and how many the server got."""
    load = Slice(Load(1, concurrency=concurrency), 1, seed=1, timeout=PATIENCE_SECONDS)
    async with answering(*answers) as (endpoint, requests):
        pool = Pool(endpoint, repeat(REQUEST))
        await pool.open(concurrency)
        outcome = await LoadGenerator(pool, load, TickingClock(tick=0.02)).run()
        pool.close()
        return outcome, len(requests)


async def test_tokens_are_read_off_the_end_of_every_answer() -> None:
    outcome, requests = await load_on(http(200, GOOD_BODY), concurrency=3)
    assert outcome.requests == requests > 3
    assert outcome.tokens == 7 * requests
    assert outcome.errors == {}


async def test_of_answers_without_usage_the_tokens_are_not_known() -> None:
    outcome, _ = await load_on(http(200, b'{"data": []}'))
    assert outcome.requests
    assert outcome.tokens is None


async def test_every_failure_of_a_server_is_counted_by_what_it_was() -> None:
    overloaded = http(429, b'{"error": {"message": "too  much", "type": "tokens"}}')
    outcome, requests = await load_on(http(200, GOOD_BODY), overloaded, None, b"SMTP?\r\n\r\n")
    assert outcome.requests + sum(outcome.errors.values()) == requests
    assert set(outcome.errors) == {"429", "connection closed", "malformed answer"}
    assert outcome.messages["429"] == "too much"


async def test_a_server_that_closes_every_connection_is_connected_to_anew() -> None:
    outcome, requests = await load_on(http(200, GOOD_BODY, "Connection: close"), concurrency=2)
    assert outcome.requests == requests > 2
    assert outcome.errors == {}


async def test_a_server_that_is_gone_is_an_error_and_no_endless_loop() -> None:
    async with answering(None) as (endpoint, _):
        pass
    pool = Pool(endpoint, repeat(REQUEST))
    await pool.open(2)
    outcome = await LoadGenerator(pool, Slice(Load(1, concurrency=2), 0.1, seed=1, timeout=PATIENCE_SECONDS)).run()
    pool.close()
    assert set(outcome.errors) == {"no connection"}
    assert 2 <= outcome.errors["no connection"] <= 10
    assert endpoint.url in outcome.messages["no connection"]


async def test_requests_of_an_open_loop_get_connections_as_they_need_them() -> None:
    async with answering(http(200, GOOD_BODY)) as (endpoint, requests):
        pool = Pool(endpoint, repeat(REQUEST))
        await pool.open(1)
        outcome = await LoadGenerator(pool, Slice(Load(1, rate=200), 0.1, seed=1, timeout=PATIENCE_SECONDS)).run()
        pool.close()
    assert outcome.requests == len(requests) == 20


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://localhost:9000/v1", ("http", "localhost", 9000, "/v1")),
        ("http://localhost:9000/v1/", ("http", "localhost", 9000, "/v1")),
        ("https://api.example.com/v1/embeddings", ("https", "api.example.com", 443, "/v1")),
        ("http://[::1]:80", ("http", "::1", 80, "")),
    ],
)
def test_a_base_url_is_taken_as_clients_are_given_it(url: str, expected: tuple[str, str, int, str]) -> None:
    endpoint = Endpoint.of(url)
    assert (endpoint.scheme, endpoint.host, endpoint.port, endpoint.base) == expected


@pytest.mark.parametrize("url", ["localhost:9000", "ftp://x/v1", "http://", "http://x:y", "http://[::1"])
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequest, match="give one like"):
        Endpoint.of(url)


def test_the_key_goes_with_every_request() -> None:
    endpoint = Endpoint.of("http://[::1]:8080/v1")
    assert b"Host: [::1]:8080\r\nAuthorization: Bearer secret\r\n" in endpoint.head("secret")
    assert "Bearer schlüssel\r\n".encode() in endpoint.head("schlüssel")
    assert b"Authorization" not in endpoint.head(None)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": [1]}', "{'detail': [1]}"),
        (b"<html>\n no\xff", "<html> no\N{REPLACEMENT CHARACTER}"),
        (b"x" * 300, "x" * 199 + "…"),
    ],
)
def test_whatever_an_error_says_becomes_one_short_line(body: bytes, says: str) -> None:
    assert error_message(body) == says
