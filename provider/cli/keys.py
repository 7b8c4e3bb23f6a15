"""`emb-provider keys`: add, list and revoke API keys."""

from pathlib import Path
from typing import Any

import click

from provider.cli.options import config_option, json_option

_file_option = click.option(
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The keys file [default: auth.keys_file of the configuration].",
)


@click.group()
def keys() -> None:
    """Add, list and revoke API keys. A running service takes changes over within a second or two."""


@keys.command()
@click.argument("name")
@click.option("--models", metavar="NAME,…", help="Models that it may use [default: all].")
@click.option("--tasks", metavar="TASK,…", help="embed, rerank, score, classify, or none [default: all].")
@click.option("--admin", is_flag=True, help="It may read all usage, and protected metrics.")
@click.option("--tier", help="interactive or bulk [default: by the size of requests].")
@click.option("--weight", help="Share of a busy model, relative to other keys [default: 1].")
@click.option("--requests-per-minute", metavar="N", help="Quota.")
@click.option("--tokens-per-minute", metavar="N", help="Quota.")
@click.option("--requests-per-day", metavar="N", help="Quota of a day of UTC.")
@click.option("--tokens-per-day", metavar="N", help="Quota of a day of UTC.")
@json_option
@_file_option
@config_option
def add(
    name: str,
    as_json: bool,  # noqa: FBT001 - click passes options by name
    file: Path | None,
    config: Path | None,
    admin: bool,  # noqa: FBT001
    **rights: str | None,
) -> None:
    """Make a key and print it, once: the file holds its hash.

    A name that has a key gets a second one with the same rights, to replace the first without a gap.
    """
    import json  # noqa: PLC0415 - `--help` must not wait for any of this

    from provider.keys import add_key, read_keys_file  # noqa: PLC0415
    from provider.keys.rights import caller_of_rights  # noqa: PLC0415

    path = file or _configured_file(config)
    words = {"name": name} | {right: text for right, text in rights.items() if text is not None}
    caller = caller_of_rights(words | ({"admin": "yes"} if admin else {}), "keys add")
    same_name = [key for key in (read_keys_file(path) if path.exists() else []) if key.caller.name == name]
    if same_name and len(words) == 1 and not admin:
        caller = same_name[0].caller
    key, added = add_key(path, caller)
    about = {"name": name, "id": added.id, "key": key, "file": str(path)}
    click.echo(json.dumps(about, indent=2, ensure_ascii=False) if as_json else key)
    click.echo(f"{name} ({added.id}) was added to {path}; the key is not shown again", err=True)
    if same_name:
        ids = ", ".join(each.id for each in same_name)
        click.echo(f"{name} has further keys: {ids}. To revoke one: emb-provider keys revoke ID", err=True)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
@_file_option
@config_option
def list_keys(file: Path | None, config: Path | None, as_json: bool) -> None:  # noqa: FBT001
    """List names, ids and rights of all keys; those of the configuration too, unless --file is given."""
    import json  # noqa: PLC0415

    from provider.keys import read_keys, read_keys_file, rights_text  # noqa: PLC0415

    found = read_keys_file(file) if file else read_keys(_auth(config))
    rows = [
        {
            "name": key.caller.name,
            "id": key.id,
            "stored": "hashed" if key.is_hashed else "in clear",
            "rights": rights_text(key.caller, with_name=False),
        }
        for key in found
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    widths = [max((len(row[column]) for row in rows), default=0) for column in ("name", "id", "stored")]
    for row in rows:
        click.echo(
            "  ".join(f"{text:<{width}}" for text, width in zip(row.values(), [*widths, 0], strict=True)).rstrip()
        )


@keys.command()
@click.argument("name", metavar="NAME|ID")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
@_file_option
@config_option
def revoke(name: str, as_json: bool, file: Path | None, config: Path | None) -> None:  # noqa: FBT001
    """Remove all keys of a name, or the one with an id, from the file."""
    import json  # noqa: PLC0415

    from provider.keys import revoke_keys  # noqa: PLC0415

    path = file or _configured_file(config)
    revoked = revoke_keys(path, name)
    if as_json:
        rows = [{"name": key.caller.name, "id": key.id, "file": str(path)} for key in revoked]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for key in revoked:
        click.echo(f"{key.caller.name} ({key.id}) was revoked in {path}")


def _auth(config: Path | None) -> Any:  # noqa: ANN401 - imported inside
    from provider.app import read_configuration  # noqa: PLC0415

    return read_configuration(config).settings.auth


def _configured_file(config: Path | None) -> Path:
    from provider.errors import SettingsError  # noqa: PLC0415

    path = _auth(config).keys_file
    if path is None:
        msg = "auth.keys_file is not set; set it, or name a file with --file"
        raise SettingsError(msg)
    return Path(path)
