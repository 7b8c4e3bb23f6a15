"""Options that several commands share, and what they mean as settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def config_option(command: F) -> F:
    """`--config FILE`."""
    return click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Configuration file [default: $EMB_PROVIDER_CONFIG, else litestar.yaml here, if there is one].",
    )(command)


def model_options(command: F) -> F:
    """`--model`, `--backend`, `--device`, `--dtype`."""
    for option in (
        click.option("--dtype", help="auto, float32, bfloat16 or float16."),
        click.option("--device", help="auto, cpu, cuda, cuda:N or mps."),
        click.option("--backend", help="A backend that `emb-provider backends` lists."),
        click.option("--model", metavar="NAME|FOLDER", help="A model's name, a folder, or package:NAME/FOLDER."),
    ):
        command = option(command)
    return command


def model_flags(model: str | None, backend: str | None, device: str | None, dtype: str | None) -> dict[str, object]:
    """The settings that the flags given stand for; a flag that was not given sets nothing."""
    flags: dict[str, object] = {"model.backend": backend, "model.device": device, "model.dtype": dtype}
    if model is not None:
        is_path = model.startswith(("package:", ".", "/", "~")) or Path(model).is_dir()
        flags["model.path" if is_path else "model.name"] = model
    return {name: value for name, value in flags.items() if value is not None}
