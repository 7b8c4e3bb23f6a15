"""`emb-provider convert`: a model's pickled weights to safetensors, once."""

from pathlib import Path

import click

from provider.cli.options import config_option, json_option, single_model_settings
from provider.cli.progress import steps


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--revision", help="Branch, tag or full commit hash of the repository.")
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    help="New folder [default: in the cache].",
)
@json_option
@config_option
def convert(
    model: str,
    revision: str | None,
    to: Path | None,
    as_json: bool,  # noqa: FBT001 - click passes it by name
    config: Path | None,
) -> None:
    """Convert the pickled weights of MODEL (a configured name, OWNER/NAME, or a folder) and print the new folder.

    Only tensors are read: no code in the weights runs, and a file that needs more is rejected. The original stays.
    `serve` finds the new folder in the cache under the model's own name.
    """
    import json  # noqa: PLC0415 - `--help` must not wait for any of this

    from attrs import evolve  # noqa: PLC0415

    from provider.models.conversion import convert as run  # noqa: PLC0415
    from provider.models.conversion import store_folder  # noqa: PLC0415
    from provider.models.folder import check_free  # noqa: PLC0415
    from provider.models.resolve import find_source  # noqa: PLC0415
    from provider.telemetry.logs import configure_logging  # noqa: PLC0415

    to = to and to.expanduser().absolute()
    if to is not None:
        check_free(to)
    settings = single_model_settings(config, model)
    configure_logging(evolve(settings.log, level="INFO"))
    wanted = evolve(settings.model, convert_weights=True, revision=revision or settings.model.revision)
    source = find_source(wanted, settings.hub, progress=True)
    folder, is_converted = source.folder, bool(source.selection.pickled)
    if is_converted:
        order = source.conversion(store_folder(settings.hub))
        with steps("convert", speaks_to_files=False) as on_step:
            on_step("converting")
            folder = run(order) if to is None else run(evolve(order, place=to), is_shared=False)
    else:
        click.echo(f"{model} has safetensors: there is nothing to convert", err=True)
    click.echo(json.dumps({"folder": str(folder), "converted": is_converted}, indent=2) if as_json else folder)
