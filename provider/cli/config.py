"""`emb-provider config`: what is in force and where each value comes from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from provider.cli.options import config_option


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
def config(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 - click passes it by name
    """Show every setting, its value and its source. Secrets are masked."""
    import json  # noqa: PLC0415

    from provider.app import read_configuration  # noqa: PLC0415

    rows = list(_rows(read_configuration(config)))
    if as_json:
        click.echo(json.dumps({name: {"value": value, "source": source} for name, value, source in rows}, indent=2))
        return
    widths = [max(len(str(row[column])) for row in rows) for column in (0, 1)]
    for name, value, source in rows:
        click.echo(f"{name:<{widths[0]}}  {_shown(value):<{widths[1]}}  {source}".rstrip())


def _rows(configuration: Any) -> Iterator[tuple[str, Any, str]]:  # noqa: ANN401 - imported inside the command
    from operator import attrgetter  # noqa: PLC0415

    from attrs import asdict  # noqa: PLC0415

    from provider.settings import SECTIONS, options_of  # noqa: PLC0415

    settings, sources = configuration.settings, configuration.sources
    for section in SECTIONS:
        for each in options_of(section):
            name = f"{section}.{each.name}"
            value = attrgetter(name)(settings)
            if name == "model.name":
                value = settings.model.served_name
            if each.metadata["secret"] and value:
                value = "…" if isinstance(value, str) else ["…"] * len(value)
            yield name, value, sources.get(name, "default")
    yield "models", [asdict(model) for model in settings.models], sources.get("models", "default")


def _shown(value: Any) -> str:  # noqa: ANN401
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
