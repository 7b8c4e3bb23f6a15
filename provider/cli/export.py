"""`emb-provider export`: a model's folder in the format of another runtime, ready to serve."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from provider.cli.options import config_option, json_option, single_model_settings
from provider.cli.progress import steps


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--to", "target_format", required=True, metavar="FORMAT", help="The format, such as onnx.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="New folder [default: the model's name and the format, here].",
)
@click.option("--optimize", metavar="LEVEL", help="Optimise the graph; onnx: O1, O2, O3.")
@click.option("--quantize", metavar="TYPE", help="Also quantise the weights; onnx: int8.")
@click.option(
    "--environment",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the exporter's tools [default: in the user's cache].",
)
@json_option
@config_option
def export(
    model: str,
    target_format: str,
    output: Path | None,
    optimize: str | None,
    quantize: str | None,
    environment: Path | None,
    as_json: bool,  # noqa: FBT001 - click passes it by name
    config: Path | None,
) -> None:
    """Write MODEL (a configured name, a name on the hub, a folder, or package:NAME/FOLDER) in another format.

    The new folder is complete, with the model's own files, and appears when everything is written. A plugin brings the
    format, and keeps the tools that it needs apart from the service.
    """
    import json  # noqa: PLC0415

    from provider.backends.exporters import ExportOrder, find_exporter  # noqa: PLC0415 - `--help` must not wait
    from provider.models.folder import check_free  # noqa: PLC0415
    from provider.models.resolve import resolve  # noqa: PLC0415
    from provider.models.spec import read_spec  # noqa: PLC0415

    exporter = find_exporter(target_format)
    settings = single_model_settings(config, model)
    name = settings.model.served_name
    target = (output or Path(f"{name.rpartition('/')[2]}-{target_format}")).expanduser().absolute()
    check_free(target)
    source = resolve(settings.model, settings.hub, progress=True)
    with _beside(target) as folder, steps("export") as on_step:
        _copy_model(source.folder, folder)
        spec, _ = read_spec(folder, name=name, max_context_length=None, default_prompt=None)
        flags = exporter(ExportOrder(spec, optimize, quantize, environment, on_step))
    if as_json:
        click.echo(json.dumps({"folder": str(target), "flags": flags.split()}, indent=2))
        return
    click.echo(target)
    click.echo(f"serve it with: emb-provider serve --model {target} {flags}", err=True)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A new folder beside `target`, which takes its place at the end; after an error nothing is left of it."""
    import shutil  # noqa: PLC0415

    from provider.errors import ModelError  # noqa: PLC0415
    from provider.process import cleaning_up_after_signals  # noqa: PLC0415

    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    # Whoever ends the command by a signal should not find gigabytes left behind either.
    with cleaning_up_after_signals():
        try:
            partial.mkdir(parents=True)
            yield partial
            partial.replace(target)
        except OSError as exc:
            msg = f"cannot write {target}: {exc.strerror or exc}; nothing was left there"
            raise ModelError(msg) from exc
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _copy_model(source: Path, folder: Path) -> None:
    """The files that make the model, and its licence; no copies in other formats."""
    import shutil  # noqa: PLC0415

    from provider.models.folder import names_in  # noqa: PLC0415
    from provider.models.selection import select  # noqa: PLC0415

    present = names_in(source)
    more = [name for name in present if name.split(".")[0].upper() in {"LICENSE", "README"}]
    for name in (*select(str(source), present, source).files, *more):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)
