"""Options that several commands share, and what they mean as settings."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from provider.texts.records import FORMATS

if TYPE_CHECKING:
    from provider.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """Numbers of a range, without `nan`, which every comparison lets pass, and `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's
        """See click."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def config_option(command: F) -> F:
    """`--config FILE`."""
    return click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Configuration file [default: $EMB_PROVIDER_CONFIG, else litestar.yaml here].",
    )(command)


def json_option(command: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")(command)


def complete_backends(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Names of installed backends that begin so."""
    from provider.backends.registry import installed_backends  # noqa: PLC0415 - `--help` must not wait for it

    return [name for name in installed_backends() if name.startswith(incomplete)]


def _complete_from(*names: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    return lambda _ctx, _param, incomplete: [name for name in names if name.startswith(incomplete)]


def run_options(command: F) -> F:
    """`--backend`, `--device`, `--dtype`."""
    dtypes = _complete_from("auto", "float32", "bfloat16", "float16", "int8")
    devices = _complete_from("auto", "cpu", "cuda", "mps")
    for option in (
        click.option("--dtype", help="auto, float32, bfloat16, float16 or int8 (CPU).", shell_complete=dtypes),
        click.option("--device", help="auto, cpu, cuda, cuda:N or mps.", shell_complete=devices),
        click.option("--backend", help="One that `emb-provider backends` lists.", shell_complete=complete_backends),
    ):
        command = option(command)
    return command


def model_options(command: F) -> F:
    """`--model`, and those of `run_options`."""
    model = click.option("--model", metavar="NAME|FOLDER", help="Name, folder, or package:NAME/FOLDER.")
    return model(run_options(command))


def input_options(command: F) -> F:
    """Options that say which files are read, and how."""
    options = (
        click.option(
            "-f",
            "--file",
            "files",
            multiple=True,
            type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
            help="File of inputs, plain or gzip; - is standard input. Repeatable.",
        ),
        click.option(
            "--input-format",
            type=click.Choice(["auto", *FORMATS]),
            default="auto",
            show_default=True,
            help="One text a line, JSON strings or objects (one a line or in an array), or a table. auto: by the "
            "file's name, else by its first line.",
        ),
        click.option("--field", help="Field of a JSON object that holds the text [default: text]."),
        click.option(
            "--column",
            metavar="NAME|N",
            help="Column of a CSV, TSV or Parquet file that holds the text, by name or number from 1.",
        ),
        click.option("--no-header", is_flag=True, help="CSV and TSV files have no header."),
        click.option("--skip-empty", is_flag=True, help="Leave empty inputs out, and report them."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def model_flags(model: str | None, backend: str | None, device: str | None, dtype: str | None) -> dict[str, object]:
    """The settings that the flags given stand for; a flag that was not given sets nothing."""
    flags: dict[str, object] = {"model.backend": backend, "model.device": device, "model.dtype": dtype}
    if model is not None:
        is_path = model.startswith(("package:", ".", "/", "~")) or Path(model).is_dir()
        flags["model.path" if is_path else "model.name"] = model
    return {name: value for name, value in flags.items() if value is not None}


def split_prompt(config: Path | None, model: str | None) -> tuple[str | None, str | None]:
    """The model, and the prompt that stands behind a colon (`name:query`), as in requests; None where there is none.

    Args:
        config: the configuration file, if one was named: a configured name may have colons itself.
        model: as `--model` has it.

    Raises:
        SettingsError: naming the setting at fault.
    """
    from provider.app import read_configuration  # noqa: PLC0415 - `--help` must not wait for any of this
    from provider.models.catalogue import Catalogue  # noqa: PLC0415

    if model is None or ":" not in model or Path(model).is_dir():
        return model, None
    catalogue = Catalogue.of(read_configuration(config, {}).settings.all_models())
    name, prompt = catalogue.split(model)
    if prompt is None and model not in dict(catalogue.names()):
        name, _, prompt = model.rpartition(":")
    return (model, None) if name == "package" else (name, prompt)


def single_model_settings(
    config: Path | None,
    model: str | None = None,
    backend: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> "Settings":
    """Settings with one model and no limits on requests, for a command that runs the model itself.

    Args:
        config: the configuration file, if one was named.
        model: a configured name or alias, else as `--model` has it; None for the default model.
        backend: instead of the configured one.
        device: instead of the configured one.
        dtype: instead of the configured one.

    Raises:
        SettingsError: naming the setting at fault.
    """
    import attrs  # noqa: PLC0415 - `--help` must not wait for any of this

    from provider.app import read_configuration  # noqa: PLC0415
    from provider.errors import ModelNotFound  # noqa: PLC0415
    from provider.models.catalogue import Catalogue  # noqa: PLC0415
    from provider.settings import LogSettings, ModelSettings  # noqa: PLC0415

    configured = read_configuration(config, model_flags(None, backend, device, dtype)).settings
    single: ModelSettings = configured.model
    if model is not None:
        try:
            single = Catalogue.of(configured.all_models()).find(model)
            single = attrs.evolve(
                single,
                backend=backend or single.backend,
                device=device or single.device,
                dtype=dtype or single.dtype,
            )
        except ModelNotFound:
            single = read_configuration(config, model_flags(model, backend, device, dtype)).settings.model
    # The terminal belongs to what the command writes.
    log = LogSettings(level="WARNING", format=configured.log.format)
    return attrs.evolve(configured, log=log).for_one_caller(single)
