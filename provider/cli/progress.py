"""What a command is doing, on standard error, while that takes longer than people like to wait without a word."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def steps(command: str, *, speaks_to_files: bool = True) -> Iterator[Callable[[str], None]]:
    """A function that is told each step: a spinner with its seconds on a terminal, a line a step elsewhere.

    Args:
        command: its name, before each line.
        speaks_to_files: whether there are lines where standard error is no terminal.
    """
    from rich.console import Console  # noqa: PLC0415 - `--help` must not wait for it
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    console = Console(stderr=True)
    if not console.is_terminal:
        yield (lambda step: click.echo(f"{command}: {step}", err=True)) if speaks_to_files else (lambda _: None)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None)

        def show(step: str) -> None:
            progress.reset(task, description=step)

        yield show
