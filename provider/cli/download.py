"""`emb-provider download`: fetch a model, for this machine or to carry to another."""

from pathlib import Path

import click

from provider.cli.options import config_option


@click.command()
@click.argument("name")
@click.option("--revision", help="Branch, tag or full commit hash of the repository.")
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    help="Put the files into this folder, to copy it to a machine without network.",
)
@config_option
def download(name: str, revision: str | None, to: Path | None, config: Path | None) -> None:
    """Fetch the model NAME (a configured name, OWNER/NAME, or a name of sentence-transformers') and print its folder.

    Files that are here already are not fetched again. HF_TOKEN opens private and gated repositories, HF_ENDPOINT names
    a mirror.
    """
    from attrs import evolve  # noqa: PLC0415 - `--help` must not wait

    from provider.app import read_configuration  # noqa: PLC0415
    from provider.models.hub import download as fetch  # noqa: PLC0415
    from provider.settings import ModelSettings  # noqa: PLC0415

    settings = read_configuration(config).settings
    # A configured name means its repository; a model with a folder of its own needs no download under that name.
    known = {each: model for model in settings.all_models() for each in (model.served_name, *model.aliases)}
    model = known.get(name, ModelSettings(name=name))
    if model.path is not None:
        model = ModelSettings(name=name)
    if revision is not None:
        model = evolve(model, revision=revision)
    snapshot = fetch(
        model.repository,
        revision=model.revision,
        offline=settings.hub.offline,
        cache_folder=settings.hub.cache_folder,
        to=to.expanduser() if to is not None else None,
        progress=True,
    )
    for notice in snapshot.notices:
        click.echo(notice, err=True)
    click.echo(snapshot.folder)
