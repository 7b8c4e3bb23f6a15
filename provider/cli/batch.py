"""`emb-provider batch`: requests in a file, answered by a server in the background."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_URL = "http://localhost:9000/v1"


_json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")


def _server_options(command: F) -> F:
    for option in (
        click.option("--url", default=_URL, show_default=True, help="Base URL of the server."),
        click.option("--api-key", envvar="OPENAI_API_KEY", help="Key of --url [default: $OPENAI_API_KEY]."),
    ):
        command = option(command)
    return command


@click.group()
def batch() -> None:
    """Submit, watch, cancel and fetch batches of a running server."""


@batch.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--endpoint", default="/v1/embeddings", show_default=True, help="Endpoint of all requests.")
@click.option("--window", default="24h", show_default=True, help="When the batch expires: 90m, 24h, 7d.")
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="A note kept with the batch. Repeatable.")
@click.option("--wait", is_flag=True, help="Wait until the batch has ended; exit with 1 unless it is completed.")
@_json_option
@_server_options
def submit(
    file: Path,
    endpoint: str,
    window: str,
    metadata: tuple[str, ...],
    wait: bool,  # noqa: FBT001 - click passes it by name
    as_json: bool,  # noqa: FBT001
    url: str,
    api_key: str | None,
) -> None:
    """Upload FILE (JSON lines with custom_id, method, url and body) and print the id of the batch, or all of it."""
    from provider.bulk.batches import BatchServer, read_metadata  # noqa: PLC0415 - `--help` must not wait for it

    notes = read_metadata(metadata)
    with BatchServer.opened(url, api_key) as server:
        found = server.submit(file, endpoint=endpoint, window=window, metadata=notes)
        if not as_json:
            click.echo(found["id"])
        if wait:
            found = server.wait(found["id"], _tell)
    if as_json:
        _show(found, as_json=True)
    else:
        for problem in _problems(found):
            click.echo(problem, err=True)
    if wait:
        _end(found)


@batch.command()
@click.argument("batch_id")
@click.option("--wait", is_flag=True, help="Wait until the batch has ended; exit with 1 unless it is completed.")
@_json_option
@_server_options
def status(batch_id: str, wait: bool, as_json: bool, url: str, api_key: str | None) -> None:  # noqa: FBT001
    """Show how far a batch is."""
    from provider.bulk.batches import BatchServer  # noqa: PLC0415 - `--help` must not wait for it

    with BatchServer.opened(url, api_key) as server:
        found = server.wait(batch_id, _tell) if wait else server.status(batch_id)
    _show(found, as_json=as_json)
    if wait:
        _end(found)


@batch.command("list")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="Number of batches.")
@_json_option
@_server_options
def list_batches(limit: int, as_json: bool, url: str, api_key: str | None) -> None:  # noqa: FBT001
    """List the newest batches of the key."""
    import json  # noqa: PLC0415 - `--help` must not wait for any of this

    from provider.bulk.batches import BatchServer  # noqa: PLC0415

    with BatchServer.opened(url, api_key) as server:
        found = server.listed(limit)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for each in found:
        click.echo(_line(each))


@batch.command()
@click.argument("batch_id")
@_json_option
@_server_options
def cancel(batch_id: str, as_json: bool, url: str, api_key: str | None) -> None:  # noqa: FBT001
    """Stop a batch. Results so far are kept."""
    from provider.bulk.batches import BatchServer  # noqa: PLC0415 - `--help` must not wait for it

    with BatchServer.opened(url, api_key) as server:
        _show(server.cancel(batch_id), as_json=as_json)


@batch.command()
@click.argument("batch_id")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Answers; else standard output.")
@click.option("--errors", type=click.Path(dir_okay=False, path_type=Path), help="Requests that were not answered.")
@click.option("--json", "as_json", is_flag=True, help="The batch and what was written, as JSON; needs --output.")
@_server_options
def fetch(
    batch_id: str,
    output: Path | None,
    errors: Path | None,
    as_json: bool,  # noqa: FBT001
    url: str,
    api_key: str | None,
) -> None:
    """Download the results of a batch that has ended."""
    if as_json and output is None:
        msg = "--json is written to standard output, where the answers would go; name a file for them with --output"
        raise click.UsageError(msg)
    from provider.bulk.batches import ENDED, BatchServer  # noqa: PLC0415 - `--help` must not wait for it
    from provider.errors import ServerFailed  # noqa: PLC0415

    with BatchServer.opened(url, api_key) as server:
        found = server.status(batch_id)
        if found["status"] not in ENDED:
            msg = f"{_line(found)}: it has not ended; wait with `emb-provider batch status {batch_id} --wait`"
            raise ServerFailed(msg)
        written: dict[str, Any] = {}
        for name, path, is_wanted in (("output", output, True), ("error", errors, errors is not None)):
            file_id = found[f"{name}_file_id"]
            if file_id is not None and is_wanted:
                size = server.download(file_id, path)
                written[name] = {"path": str(path), "bytes": size}
                click.echo(f"{path or 'standard output'}: {size} bytes", err=True)
            elif is_wanted and path is not None:
                click.echo(f"{path}: not written, the batch has no {name} file", err=True)
        if found["error_file_id"] is not None and errors is None:
            failed = found["request_counts"]["failed"]
            click.echo(f"{failed} requests were not answered; --errors FILE writes them", err=True)
    if as_json:
        _show({**found, "written": written}, as_json=True)


def _line(found: dict[str, Any]) -> str:
    counts = found["request_counts"]
    pause = f", paused: {found['pause']['message']}" if found.get("pause") else ""
    done = f"{counts['completed']} completed, {counts['failed']} failed, {counts['total']} in all"
    return f"{found['id']}  {found['status']}  {done}{pause}"


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    import json  # noqa: PLC0415

    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    click.echo(_line(found))
    for problem in _problems(found):
        click.echo(problem)


def _problems(found: dict[str, Any]) -> Iterator[str]:
    for each in (found.get("errors") or {}).get("data") or ():
        where = f"line {each['line']}: " if each.get("line") else ""
        yield f"  {where}{each['message']} ({each['code']})"


def _tell(found: dict[str, Any]) -> None:
    click.echo(_line(found), err=True)


def _end(found: dict[str, Any]) -> None:
    if found["status"] != "completed":
        raise SystemExit(1)
