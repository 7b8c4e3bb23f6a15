"""`emb-provider models`: what is configured, and what is known of it without loading weights."""

from pathlib import Path
from typing import Any

import click

from provider.cli.options import config_option
from provider.cli.progress import steps

_KNOWN_OF_FILES = (
    "folder",
    "revision",
    "architecture",
    "task",
    "outputs",
    "labels",
    "scores",
    "dimensions",
    "pooling",
    "normalize",
    "similarity",
    "similarity",
    "max_tokens",
    "prompts",
    "digest",
    "fingerprint",
    "notices",
    "problem",
)


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
@click.option("--fingerprint", "with_fingerprint", is_flag=True, help="Load each model and show its fingerprint.")
def models(config: Path | None, as_json: bool, with_fingerprint: bool) -> None:  # noqa: FBT001 - click passes it by name
    """List the configured models; exits with 1 if one cannot be served.

    Nothing is downloaded or converted. In JSON every model has every key; what is not known is null.
    """
    import json  # noqa: PLC0415
    import sys  # noqa: PLC0415

    import attrs  # noqa: PLC0415

    from provider.app import read_configuration  # noqa: PLC0415

    settings = read_configuration(config).settings
    hub = attrs.evolve(settings.hub, offline=True)
    entries = []
    with steps("models", speaks_to_files=False) as on_step:
        for model in settings.all_models():
            on_step(f"{'loading' if with_fingerprint else 'reading'} {model.served_name}")
            entries.append(_describe(model, hub, with_fingerprint=with_fingerprint))
    if as_json:
        click.echo(json.dumps(entries, indent=2))
    else:
        for entry in entries:
            _show(entry)
    sys.exit(1 if any(entry["problem"] for entry in entries) else 0)


def _show(entry: dict[str, Any]) -> None:
    click.echo(entry.pop("name"))
    for key, value in entry.items():
        if value in (None, []) or (key == "lazy" and not value):
            continue
        shown = ("yes" if value else "no") if isinstance(value, bool) else value
        shown = ", ".join(shown) if isinstance(shown, list) else shown
        click.echo(f"  {key.replace('_', ' '):<12} {shown}")


def _describe(model: Any, hub: Any, *, with_fingerprint: bool) -> dict[str, Any]:  # noqa: ANN401 - imported inside
    from provider.engine.description import ModelDescription  # noqa: PLC0415
    from provider.engine.finding import backend_files, read_files  # noqa: PLC0415
    from provider.errors import ProviderError  # noqa: PLC0415
    from provider.models.resolve import resolve  # noqa: PLC0415

    entry: dict[str, Any] = {
        "name": model.served_name,
        "aliases": list(model.aliases),
        "source": model.path or model.repository,
        "backend": model.backend,
        "lazy": model.lazy,
        **dict.fromkeys(_KNOWN_OF_FILES),
    }
    try:
        source = resolve(model, hub, select_more=backend_files(model), converts=False)
        spec, notices = read_files(source, model)
        entry |= _shown(ModelDescription.of_files(model, source, spec, notices))
        if with_fingerprint:
            entry |= _shown(_loaded(model, hub))
    except ProviderError as exc:
        entry["problem"] = exc.message
    return entry


def _shown(found: Any) -> dict[str, Any]:  # noqa: ANN401
    return {name: value for name, value in found.values().items() if name in _KNOWN_OF_FILES}


def _loaded(model: Any, hub: Any) -> Any:  # noqa: ANN401
    """As the service shows it: what dtype `auto` is, and what a backend makes of the files, only loading tells."""
    import attrs  # noqa: PLC0415

    from provider.engine.description import ModelDescription  # noqa: PLC0415
    from provider.engine.finding import find_model  # noqa: PLC0415
    from provider.engine.loading import load_parts  # noqa: PLC0415

    found = find_model(model, hub, show_progress=False, notify_download=lambda _phase, _detail: None)
    parts = load_parts(found, attrs.evolve(model, tune=False))
    parts.backend.close()
    return ModelDescription.of(model, parts)
