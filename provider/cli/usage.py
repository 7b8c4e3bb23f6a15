"""`emb-provider usage`: what each key has used."""

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import click

from provider.cli.options import config_option


@click.command()
@click.option("--since", metavar="DAY|Nd", help="First day (UTC): 2026-11-01, or 7d for the last seven.")
@click.option("--until", metavar="DAY", help="Last day (UTC) [default: today].")
@click.option(
    "--by",
    default="caller,model",
    show_default=True,
    help="Group by caller, model, day, separated by commas; none: the sum.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
@click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Usage file [default: auth.usage_file].",
)
@config_option
def usage(
    since: str | None,
    until: str | None,
    by: str,
    as_json: bool,  # noqa: FBT001 - click passes it by name
    file: Path | None,
    config: Path | None,
) -> None:
    """Show requests, errors, inputs, documents and tokens by key, model or day.

    A service writes them once a second. Requests without an accepted key have no caller; those that name no configured
    model have no model.
    """
    import json  # noqa: PLC0415 - `--help` must not wait for any of this
    from contextlib import closing  # noqa: PLC0415

    from provider.usage.database import GROUPS, Counts, UsageDatabase  # noqa: PLC0415

    names = [] if by == "none" else [name.strip() for name in by.split(",")]
    if unknown := [name for name in names if name not in GROUPS]:
        msg = f"expected some of {', '.join(GROUPS)}, or none, got {unknown[0]!r}"
        raise click.BadParameter(msg, param_hint="--by")
    first = None if since is None else _day(since, "--since")
    last = date.max if until is None else _day(until, "--until")
    after = None if last == date.max else last + timedelta(days=1)
    groups = [name for name in GROUPS if name in names]
    with closing(UsageDatabase.open_to_read(file or _configured_file(config))) as database:
        found = database.read(groups, since=first, until=after)
    rows = [{name: getattr(each, name) for name in groups} | each.counts._asdict() for each in found]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    shown = [[*groups, *Counts._fields], *([str(value) or "-" for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = (
            f"{cell:<{width}}" if place < len(groups) else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo("  ".join(cells).rstrip())


def _day(text: str, option: str) -> date:
    today = datetime.now(UTC).date()
    if re.fullmatch(r"[1-9][0-9]{0,4}d", text):
        return today - timedelta(days=int(text[:-1]) - 1)
    try:
        return date.fromisoformat(text)
    except ValueError as exc:
        msg = f"expected a day as 2026-11-01, or a number of days as 7d, got {text!r}"
        raise click.BadParameter(msg, param_hint=option) from exc


def _configured_file(config: Path | None) -> Path:
    from provider.app import read_configuration  # noqa: PLC0415
    from provider.errors import SettingsError  # noqa: PLC0415

    path = read_configuration(config).settings.auth.usage_file
    if path is None:
        msg = "auth.usage_file is not set; set it, or name a file with --file"
        raise SettingsError(msg)
    return Path(path)
