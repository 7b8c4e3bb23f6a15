"""Released clients against a live server: what `scripts/clients` runs, and the tests of `clients/test_released.py`."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, NoReturn

import click
import numpy as np
from client_environments import HERE, Client
from client_servers import ANSWER_SECONDS, Server, Servers, servers
from processes import ROOT, clean_environment
from released_clients import CLIENTS, install
from rich.console import Console
from rich.table import Column, Table


class Program:
    """A client's program that runs."""

    def __init__(self, client: Client, process: asyncio.subprocess.Process) -> None:
        self.client, self._process = client, process

    async def ask(self, server: Server, **body: Any) -> dict[str, Any]:
        """`vectors`, or the `error` that the client's user sees."""
        model = server.reranker if self.client.reranks else self.client.model or server.model
        url = self.client.url.replace(HERE, server.root)
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
            answer["tokens"] = answer["usage"]["total_tokens"]
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


async def check_usage(program: Program, servers: Servers) -> None:
    answer = await program.ask(servers.usual, input=TEXTS)
    expected = servers.usual.ask(input=TEXTS)["usage"]["total_tokens"]
    assert answer.get("tokens") == expected, f"{answer.get('tokens')} tokens instead of {expected}"


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
    assert words(said) in words(str(seen.get("error"))), f"the server said {said!r}, the user sees {str(seen)[:1000]}"


def job(program: Program, texts: list[str]) -> dict[str, Any]:
    """What is asked about some texts."""
    return {"query": QUERY, "documents": texts} if program.client.reranks else {"input": texts}


async def check_too_long(program: Program, servers: Servers) -> None:
    text = "word " * 9000
    if program.client.cuts:
        expected = reference(servers.usual, input=[text], truncate="END")
        np.testing.assert_allclose(await program.vectors(servers.usual, input=[text]), expected, atol=1e-6)
    else:
        await _refused(program, servers.usual, **job(program, [text]))


async def check_unknown_model(program: Program, servers: Servers) -> None:
    await _refused(program, servers.usual, **job(program, ["A cat."]), model="no-such-model")


async def _check_later(program: Program, status: int, busy: AbstractContextManager[Server]) -> None:
    """While a server is `busy`, the client waits and asks again, or shows why it was refused."""
    with busy as server:
        if status not in program.client.retries:
            await _refused(program, server, **job(program, TEXTS))
            return
        refused = server.refusals(status)
        answer = asyncio.create_task(program.ask(server, **job(program, TEXTS)))
        async with asyncio.timeout(ANSWER_SECONDS):
            while not answer.done() and await asyncio.to_thread(server.refusals, status) == refused:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # the server tells of it on request only
    found = await answer
    assert server.refusals(status) > refused, (
        f"the server refused nothing with {status}; the user sees {str(found)[:1000]}"
    )
    if program.client.reranks:
        assert [index for index, _ in found.get("results", ())] == [index for index, _ in ranking(server)], found
    else:
        assert "vectors" in found, found
        np.testing.assert_allclose(found["vectors"], reference(server, input=TEXTS), atol=1e-6)


async def check_overload(program: Program, servers: Servers) -> None:
    await _check_later(program, 429, servers.narrow.occupied())


async def check_loading(program: Program, servers: Servers) -> None:
    await _check_later(program, 503, servers.late.loading())


async def check_many(program: Program, servers: Servers) -> None:
    count = program.client.splits
    texts = [f"{program.client.name} {i}" for i in range(count)]
    more = {} if "dimensions" in program.client.lacks else {"dimensions": 8}
    found = await program.vectors(servers.short, input=texts, **more)
    assert len(found) == count
    some = slice(None, None, count // 20)
    np.testing.assert_allclose(found[some], reference(servers.short, input=texts[some], **more), atol=1e-6)


PAGE = ROOT / "docs" / "how-to" / "clients.md"
START, END = "<!-- clients-table: start -->", "<!-- clients-table: end -->"
Check = Callable[[Program, Servers], Awaitable[None]]
CHECKS: dict[str, tuple[Check, Callable[[Client], bool]]] = {
    "vectors": (check_vectors, lambda client: not client.reranks),
    "usage": (check_usage, lambda client: not client.reranks),
    "dimensions": (check_dimensions, lambda client: not client.reranks),
    "ranking": (check_ranking, lambda client: client.reranks),
    "top n": (check_top, lambda client: client.reranks),
    "too long": (check_too_long, lambda _: True),
    "unknown model": (check_unknown_model, lambda _: True),
    "429": (check_overload, lambda _: True),
    "503": (check_loading, lambda _: True),
    "long list": (check_many, lambda client: client.splits > 0),
}


def row(client: Client, found: Mapping[str, str]) -> Sequence[str]:
    """What the page says of a client: its URL, what it does with long texts and after refusals, what it cannot."""
    retries = {"retry" if each in client.retries else "error" for each in (429, 503) if str(each) not in client.lacks}
    no_means = [each for each in ("usage", "dimensions", "unknown model") if each in client.lacks]
    wrong = [f"**fails**: {name}" for name, problem in found.items() if problem]
    return (
        f"`{client.setting}`: `{client.url}`",
        "-" if "too long" in client.lacks else "cut" if client.cuts else "error",
        " or ".join(sorted(retries)) or "-",
        ", ".join(wrong + no_means) or "-",
    )


async def examine(client: Client, servers: Servers) -> dict[str, str]:
    """What every check that applies to the client found: nothing is wrong where that is empty."""
    found: dict[str, str] = {}
    async with started(client) as program:
        for name, (check, applies) in CHECKS.items():
            if applies(client) and name not in client.lacks:
                try:
                    await check(program, servers)
                except AssertionError as exc:
                    found[name] = str(exc) or "it does not"
                except TimeoutError:
                    found[name] = f"no answer within {ANSWER_SECONDS} s; the checks that follow were left out"
                    break
                else:
                    found[name] = ""
    return found


HEADS = ("clients", "URL", "too long", "429, 503", "cannot")


def table_of(text: str) -> dict[str, Sequence[str]]:
    """The rows of a table in Markdown, by the label of each of their clients."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {label: cells for labels, *cells in lines[2:] for label in labels.split(", ")}


def page_with(text: str, rows: Mapping[str, Sequence[str]]) -> str:
    """The page with the table of all clients: `rows`, and those that it had, by the client's label."""
    before, _, rest = text.partition(START)
    old, _, after = rest.partition(END)
    known = table_of(old) | rows
    alike: dict[tuple[str, ...], list[str]] = {}
    for client in CLIENTS:
        if client.label in known:
            alike.setdefault(tuple(known[client.label]), []).append(client.label)
    lines: list[Sequence[str]] = [
        HEADS,
        ["---"] * len(HEADS),
        *((", ".join(labels), *cells) for cells, labels in alike.items()),
    ]
    table = "\n".join(f"| {' | '.join(each)} |" for each in lines)
    return f"{before}{START}\n\n{table}\n\n{END}{after}"


def end(*_: object) -> NoReturn:
    """Leave, so that what was started is ended."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


@click.command()
@click.option("--url", metavar="URL", help="Base URL of a running server, with /v1; none: servers are started.")
@click.option("--update", is_flag=True, help="Pin the newest releases first.")
@click.option("--docs", is_flag=True, help="Write the rows of these clients into docs/how-to/clients.md.")
@click.argument("names", metavar="[CLIENT]...", nargs=-1, type=click.Choice(sorted({each.name for each in CLIENTS})))
def main(url: str | None, update: bool, docs: bool, names: Sequence[str]) -> None:
    """Run released clients against a live server, and print what each can do."""
    clients = [client for client in CLIENTS if not names or client.name in names]
    console, failures = Console(width=None if sys.stdout.isatty() else 120, highlight=False), []
    rows: dict[str, Sequence[str]] = {}
    table = Table(Column("client", no_wrap=True), *HEADS[1:])
    signal.signal(signal.SIGTERM, end)
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
            rows[client.label] = row(client, found)
            table.add_row(client.label, *rows[client.label])
            wrongs = [f"{client.label}, {name}: {wrong}" for name, wrong in found.items() if wrong]
            failures += wrongs
            for wrong in wrongs:
                click.echo(f"clients: {wrong}", err=True)
            if docs:
                PAGE.write_text(page_with(PAGE.read_text(), rows))
    console.print(table, *failures, sep="\n", markup=False)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
