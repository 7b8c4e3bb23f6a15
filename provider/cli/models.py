"""`emb-provider models`: what is configured, and what is known of it without loading weights."""

from pathlib import Path
from typing import Any

import click

from provider.cli.options import config_option

# Other backends may read graphs of their own; finding out would import them.
_RUN_BY_CLASS = ("torch", "torch-compile")


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="A JSON list instead of text.")
@click.option(
    "--fingerprint", "with_fingerprint", is_flag=True, help="Load each model, and show the fingerprint of its vectors."
)
def models(config: Path | None, as_json: bool, with_fingerprint: bool) -> None:  # noqa: FBT001 - click passes it by name
    """List the configured models. Nothing is downloaded: a model that is not on this machine yet says so."""
    import json  # noqa: PLC0415

    import attrs  # noqa: PLC0415

    from provider.app import read_configuration  # noqa: PLC0415

    settings = read_configuration(config).settings
    hub = attrs.evolve(settings.hub, offline=True)
    entries = [
        _describe(model, hub) | (_fingerprint(model, hub) if with_fingerprint else {})
        for model in settings.all_models()
    ]
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    for entry in entries:
        click.echo(entry.pop("name"))
        for key, value in entry.items():
            if value not in (None, [], ""):
                click.echo(f"  {key:<12} {', '.join(value) if isinstance(value, list) else value}")


def _fingerprint(model: Any, hub: Any) -> dict[str, str]:  # noqa: ANN401
    """What the service would show: which dtype `auto` is, and what a backend makes of the files, only loading tells."""
    import attrs  # noqa: PLC0415

    from provider.engine.loading import find_model, load_parts  # noqa: PLC0415
    from provider.errors import ProviderError  # noqa: PLC0415

    try:
        found = find_model(model, hub, show_progress=False, notify_download=lambda _phase, _detail: None)
        parts = load_parts(found, attrs.evolve(model, tune=False))
    except ProviderError as exc:
        return {"problem": exc.message}
    parts.backend.close()
    return {"fingerprint": parts.fingerprint}


def _describe(model: Any, hub: Any) -> dict[str, Any]:  # noqa: ANN401 - imported inside the command
    from provider.errors import ModelError  # noqa: PLC0415
    from provider.models.resolve import resolve  # noqa: PLC0415
    from provider.models.spec import read_spec  # noqa: PLC0415

    entry: dict[str, Any] = {
        "name": model.served_name,
        "aliases": list(model.aliases),
        "source": model.path or model.repository,
        "backend": model.backend,
        "lazy": "yes" if model.lazy else "",
    }
    try:
        source = resolve(model, hub)
        spec, notices = read_spec(
            source.folder,
            name=model.served_name,
            max_context_length=model.max_context_length,
            default_prompt=model.default_prompt,
            needs_class=model.backend in _RUN_BY_CLASS,
        )
    except ModelError as exc:
        return entry | {"problem": exc.message}
    return entry | {
        "folder": str(source.folder),
        "revision": source.revision,
        "architecture": spec.architecture,
        "dimensions": spec.dimension,
        "max tokens": spec.max_tokens,
        "pooling": "+".join(spec.pooling),
        "prompts": sorted(spec.prompts),
        "digest": spec.fingerprint,
        "notices": [*source.notices, *notices],
    }
