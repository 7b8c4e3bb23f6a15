"""Attacks on a server over loopback, and what it must keep to: `scripts/attack`; the suite runs them smaller.

Each attack yields rows: a figure and its bound. Those that the machine's speed decides are for the table only.
"""

import argparse
import contextlib
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from attack_kit import (
    MIB,
    NAME,
    POST,
    SECONDS,
    TEXT,
    Row,
    Target,
    answered,
    is_closed,
    is_enveloped,
    liveness,
    read_answer,
    target,
)
from attacks_alone import OWN_SERVER
from waiting import join, wait_until


def announced_bodies(target: Target) -> Iterator[Row]:
    """Bodies that are announced and never sent."""
    with ExitStack() as stack:
        for i in range(40):
            connection = stack.enter_context(target.connect())
            framing = b"transfer-encoding: chunked" if i % 2 else b"content-length: %d" % (16 * MIB)
            connection.sendall(POST + framing + b"\r\n\r\n")
        wait_until(lambda: target.metric("emb_provider_requests_under_way") >= 40)
        count = target.many(50)
        served = answered(target, count)
        yield Row("40 announce 16 MiB and send nothing: others", f"{served} of {count}", "all 200", served == count)
        statuses: list[bytes] = []
        chunked = POST + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(TEXT), TEXT)
        honest = [stack.enter_context(target.connect()) for _ in range(40)]
        for connection in honest:
            connection.sendall(chunked)
        for connection in honest:
            connection.sendall(b"0\r\n\r\n")
            statuses.append(read_answer(connection)[9:12])
        yield Row(
            "40 honest chunked clients beside them",
            f"{statuses.count(b'200')} of 40",
            "all 200",
            {*statuses} == {b"200"},
        )


def large_heads(target: Target) -> Iterator[Row]:
    """Heads of any size."""
    start = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n"
    with target.watched() as probes:
        before = target.cpu_seconds
        large = target.send(start, *[b"x: " + b"a" * MIB] + [b"a" * MIB] * 99, b"\r\n\r\n")
        yield Row("one header of 100 MB", large[9:12].decode(), "431", is_enveloped(large, 431) or not large)
        many = target.send(start + b"".join(b"x%d: a\r\n" % i for i in range(100_000)) + b"\r\n")
        yield Row("100,000 headers", many[9:12].decode(), "431", is_enveloped(many, 431) or not many)
        with ExitStack() as stack:
            held = [stack.enter_context(target.connect()) for _ in range(8)]
            for connection in held:
                with contextlib.suppress(OSError):
                    for _ in range(10):
                        connection.sendall(b"a" * MIB)
            wait_until(lambda: all(map(is_closed, held)))
        yield Row("8 unfinished headers of 10 MB", "closed", "closed", True)
        trailer = target.send(POST + b"transfer-encoding: chunked\r\n\r\n0\r\n", *[b"x" * MIB] * 20)
        yield Row(
            "a trailer of 20 MB", trailer[9:12].decode() or "closed", "431", is_enveloped(trailer, 431) or not trailer
        )
        seconds = target.cpu_seconds - before
    yield Row("  CPU of all of them", f"{seconds:.2f} s", "1 s", seconds < 1, True)
    yield liveness(probes)


def idle_connections(target: Target) -> Iterator[Row]:
    """Connections that are silent, or send a byte now and then."""
    count = target.many(1000)
    before, started = target.dropped("head_too_slow"), time.monotonic()
    with ExitStack() as stack:
        silent = [stack.enter_context(target.connect()) for _ in range(count)]
        dripping = [stack.enter_context(target.connect()) for _ in range(count)]
        left = {*silent, *dripping}
        for connection in dripping:
            connection.sendall(b"GET / HTTP/1.1\r\nx: ")
        served = answered(target, 10)
        yield Row(f"{count} silent, {count} trickling: others", f"{served} of 10", "all 200", served == 10)

        def has_ended() -> bool:
            for connection in [*left]:
                if is_closed(connection):
                    left.discard(connection)
                elif connection in dripping:
                    with contextlib.suppress(OSError):
                        connection.send(b"a")
            return not left

        wait_until(has_ended)
    seconds = time.monotonic() - started
    dropped = target.dropped("head_too_slow") - before
    yield Row("  closed", f"{dropped} of {2 * count}", "all", dropped == 2 * count)
    yield Row("  after", f"{seconds:.0f} s", "15 s", seconds < 15, True)
    target.server.wait_for("connections_dropped", reason="head_too_slow")
    lines = sum(each["event"] == "connections_dropped" for each in target.server.log)
    yield Row("  lines in the log of them", str(lines), "1 to 12", lines <= 12)


def unread_answers(target: Target) -> Iterator[Row]:
    """Large answers that nobody reads."""
    texts = [f"text {i}" for i in range(2048)]
    body = json.dumps({"model": NAME, "input": texts, "encoding_format": "float"}).encode()
    assert target.ask(body)[0] == 200
    count, before, started, most = 40, target.memory, time.monotonic(), 0
    dropped, refused = target.dropped("answer_unread"), target.refused
    with ExitStack() as stack:
        held, statuses = [], []
        for _ in range(count):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", target.server.port))
            connection.sendall(POST + b"content-length: %d\r\n\r\n%b" % (len(body), body))
            held.append(connection)
        # There is no room for all of them.
        wait_until(lambda: target.metric("emb_provider_requests_under_way") + target.dropped("answer_unread") >= count)
        for _ in range(target.many(10)):
            statuses.append(target.ask(body)[0])
            most = max(most, target.memory - before)

        def is_over() -> bool:
            nonlocal most
            most = max(most, target.memory - before)
            return target.metric("emb_provider_requests_under_way") == 0

        wait_until(is_over, seconds=300)
    dropped, refused = target.dropped("answer_unread") - dropped, target.refused - refused
    ended = f"{dropped} + {refused} of {count}"
    yield Row("40 answers never read: dropped, refused", ended, "all, 0", (dropped, refused) == (count, 0))
    served = f"{statuses.count(200)} of {len(statuses)}"
    yield Row("  the same answers to others meanwhile", served, "all 200", {*statuses} == {200})
    yield Row("  memory meanwhile", f"{most / MIB:.0f} MiB", "600 MiB", most < 600 * MIB, True)
    yield Row("  under way for", f"{time.monotonic() - started:.0f} s", "240 s", True, True)
    limit = time.monotonic() + 20
    while target.memory - before > 100 * MIB and time.monotonic() < limit:
        time.sleep(0.5)
    yield Row(
        "  memory after",
        f"{(target.memory - before) / MIB:.0f} MiB",
        "100 MiB",
        target.memory - before < 100 * MIB,
        True,
    )


def many_elements(target: Target) -> Iterator[Row]:
    """JSON that is slow to parse."""
    for name, item in (("[],", b"[],"), ("{},", b"{},"), ('"a",', b'"a",'), ("1,", b"1,"), ("[", b"[")):
        body = b'{"model": "m", "input": [' + item * (16 * MIB // len(item) - 100)
        with target.watched() as probes:
            status = target.ask(body)[0]
        yield Row(f"16 MiB of {name}", str(status), "400", status == 400)
        yield liveness(probes)


def many_tokens(target: Target) -> Iterator[Row]:
    """Short bodies that mean much tokenising, and long ones that must end at their first text."""
    cases = {
        "2,048 x a prompt of 4,095 words": {"input": ["b"] * 2048, "prompt": "word " * 4095},
        "2,040 long texts": {"input": ["word " * 1600] * 2040},
    }
    for name, fields in cases.items():
        body = json.dumps({"model": NAME, **fields}).encode()
        before, used, statuses = target.memory, target.cpu_seconds, list[int]()

        def ask(body: bytes = body, statuses: list[int] = statuses) -> None:
            statuses.append(target.ask(body)[0])

        clients = [threading.Thread(target=ask) for _ in range(6)]
        with target.watched() as probes:
            for client in clients:
                client.start()
            join(*clients)
        yield Row(f"6 x {name}", f"{statuses.count(400)} of 6", "all 400", statuses == [400] * 6)
        seconds, grown = target.cpu_seconds - used, (target.memory - before) / MIB
        yield Row("  CPU of all of them", f"{seconds:.2f} s", "3 s", seconds < 3, True)
        yield Row("  memory afterwards", f"{grown:.0f} MiB", "300 MiB", grown < 300, True)
        # No other thread runs while a body is parsed, and six may be in a row.
        yield liveness(probes, 0.3)


def hang_ups(target: Target) -> Iterator[Row]:
    """Clients that leave while their bodies are parsed or tokenised."""
    texts = ["word " * 1600] * 2040
    body = json.dumps({"model": NAME, "input": texts, "truncate": True}).encode()[: 16 * MIB]
    clients = [target.connect() for _ in range(4)]
    for client in clients:
        client.sendall(POST + b"content-length: %d\r\n\r\n%b" % (len(body), body))
    time.sleep(0.2)
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    started = time.monotonic()
    wait_until(lambda: target.metric("emb_provider_requests_under_way") == 0)
    yield Row("4 x 16 MB and hung up: under way", "0", "0", True)

    def is_idle() -> bool:
        before = target.cpu_seconds
        time.sleep(0.1)
        return target.cpu_seconds - before < 0.03

    wait_until(is_idle)
    seconds = time.monotonic() - started
    yield Row("  busy for", f"{seconds:.1f} s", "1 s", seconds < 1, True)


def long_strings(target: Target) -> Iterator[Row]:
    """Strings of clients in the log."""
    body = json.dumps({"model": "m" * (10 * MIB), "input": "a"}).encode()
    target.send(POST + b"x-request-id: model\r\ncontent-length: %d\r\n\r\n" % len(body), body)
    target.send(b"GET /%b HTTP/1.1\r\nhost: localhost\r\nx-request-id: path\r\n\r\n" % (b"p" * 60_000))
    # An answer may be there before its line in the log.
    lines = [target.server.wait_for("request", request_id=each) for each in ("model", "path")]
    longest = max(len(str(value)) for line in target.server.log for value in line.values())
    yield Row("model of 10 MB, path of 60 KB: longest value", f"{longest} characters", "4000", longest <= 4000)
    cut = [len(line[line["request_id"]]) for line in lines]
    yield Row("  of the client's", f"{max(cut)} characters", "200", max(cut) <= 200)


def malformed(target: Target) -> Iterator[Row]:
    """What is no HTTP."""
    cases = {
        "content-length of 5,000 digits": (POST + b"content-length: %b\r\n\r\n{}" % (b"1" * 5000), 400),
        "nonsense": (b"nonsense\r\n\r\n", 400),
        "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        "an unknown method": (b"EMBED /v1/embeddings HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        "a method of WebDAV": (b"PROPFIND /v1/models HTTP/1.1\r\nhost: x\r\nx-request-id: req_1\r\n\r\n", 405),
        "two lengths": (POST + b"content-length: 3\r\ncontent-length: 30\r\n\r\nabc", 400),
    }
    for name, (sent, status) in cases.items():
        answer = target.send(sent)
        yield Row(name, answer[9:12].decode(), f"{status}, enveloped", is_enveloped(answer, status))


def stop_under_load(target: Target) -> Iterator[Row]:
    """Clients that connect until the port is closed. Ends the server."""
    outcomes: list[str] = []
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            try:
                connection = target.connect()
            except OSError:
                return
            with connection:
                try:
                    connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                    outcomes.append("answered" if read_answer(connection) else "closed")
                except OSError:
                    outcomes.append("reset")

    clients = [threading.Thread(target=call) for _ in range(16)]
    for client in clients:
        client.start()
    wait_until(lambda: len(outcomes) > 50)
    target.server.signal()
    target.server.wait(SECONDS)
    over.set()
    join(*clients)
    lost = len(outcomes) - outcomes.count("answered")
    yield Row("stopped under load: connections without an answer", f"{lost} of {len(outcomes)}", "0", lost == 0, True)


Attack = Callable[[Target], Iterator[Row]]

ATTACKS: Sequence[Attack] = (
    announced_bodies,
    large_heads,
    many_elements,
    many_tokens,
    hang_ups,
    long_strings,
    malformed,
    idle_connections,
    unread_answers,
    stop_under_load,
)


def main() -> None:
    """Print the table; exit with 1 if a bound is broken."""
    parser = argparse.ArgumentParser(prog="scripts/attack", description=__doc__)
    parser.add_argument("--only", default="", help="part of the names of the attacks to run")
    only = parser.parse_args().only
    is_ok = True
    print(f"{'attack':55} {'figure':>18}  {'bound':<20}", flush=True)  # noqa: T201
    with target() as one:
        attacks = [attack(one) for attack in ATTACKS if only in attack.__name__]
        attacks += [attack() for attack in OWN_SERVER if only in attack.__name__]
        for attack in attacks:
            for row in attack:
                is_ok &= row.is_ok
                state = "ok" if row.is_ok else "FAILED"
                print(f"{row.attack:55} {row.figure:>18}  {row.bound:<20} {state}", flush=True)  # noqa: T201
    sys.exit(not is_ok)


if __name__ == "__main__":
    main()
