"""`emb-provider download`: fetch a model, for this machine or to carry to another."""

from pathlib import Path

import click

from provider.cli.options import config_option, json_option, single_model_settings


@click.command()
@click.argument("name")
@click.option("--revision", help="Branch, tag or full commit hash of the repository.")
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    help="Put the files into this folder, to copy it to another machine.",
)
@click.option("--backend", help="Fetch for this backend [default: the configured one].")
@click.option("--dtype", help="Fetch for this dtype [default: the configured one].")
@json_option
@config_option
def download(
    name: str,
    revision: str | None,
    to: Path | None,
    backend: str | None,
    dtype: str | None,
    as_json: bool,  # noqa: FBT001 - click passes it by name
    config: Path | None,
) -> None:
    """Fetch the model NAME (a configured name, OWNER/NAME, or a name of sentence-transformers') and print its folder.

    It fetches what `serve` with the same configuration would, but for files that are here already. HF_TOKEN opens
    private and gated repositories, HF_ENDPOINT names a mirror.
    """
    import json  # noqa: PLC0415 - `--help` must not wait for any of this

    from attrs import evolve  # noqa: PLC0415

    from provider.app import read_configuration  # noqa: PLC0415
    from provider.engine.finding import backend_files  # noqa: PLC0415
    from provider.models.conversion import store_folder  # noqa: PLC0415
    from provider.models.hub import download as fetch  # noqa: PLC0415

    # A repository means the model that is configured from it, by whatever name: its backend says what to fetch.
    models = read_configuration(config).settings.all_models()
    configured = next((each.served_name for each in models if each.path is None and each.repository == name), name)
    settings = single_model_settings(config, configured, backend, dtype=dtype)
    model = settings.model
    # A model with a folder of its own needs no download, so the name means a repository.
    if model.path is not None:
        model = evolve(model, name=name, path=None, repo=None, revision=None)
    if revision is not None:
        model = evolve(model, revision=revision)
    snapshot = fetch(
        model.repository,
        revision=model.revision,
        offline=settings.hub.offline,
        cache_folder=settings.hub.cache_folder,
        to=to.expanduser() if to is not None else None,
        select_more=backend_files(model),
        converts=model.convert_weights,
        converted=store_folder(settings.hub),
        progress=True,
    )
    for notice in snapshot.notices:
        click.echo(notice, err=True)
    found = {"folder": str(snapshot.folder), "repository": model.repository, "revision": snapshot.revision}
    click.echo(json.dumps(found, indent=2) if as_json else snapshot.folder)
