"""A run for the command line: bars, messages, signals."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import click

from provider.bulk.job import EmbedJob
from provider.bulk.output import is_shown_on_terminal
from provider.bulk.progress import ProgressBars
from provider.bulk.run import Run
from provider.process import cleaning_up_after_signals, handled_signals
from provider.telemetry.logs import configure_logging

T = TypeVar("T")


def run(job: EmbedJob) -> None:
    """Embed and write. What can be known to be wrong is told before a model is loaded.

    Raises:
        ProviderError: a text, the model, or the output is at fault. The vectors made so far are kept beside the output.
        SystemExit: with 128 and the signal, after a signal or when nobody reads standard output any more.
    """
    if job.engine is not None:
        configure_logging(job.engine.log)
    try:
        with cleaning_up_after_signals(), ProgressBars.shown(is_wanted=not is_shown_on_terminal(job.output)) as bars:
            with Run.prepared(job, bars, _notify) as prepared:
                ended = asyncio.run(_until_signal(prepared.embed()))
                if isinstance(ended, signal.Signals):
                    _notify(f"stopped by {ended.name}{prepared.kept()}")
                    sys.exit(128 + ended)
            summary = str(ended)
        _notify(summary)
    except BrokenPipeError:
        sys.exit(128 + signal.SIGPIPE)


def _notify(sentence: str) -> None:
    click.echo(f"emb-provider: {sentence}", err=True)


async def _until_signal(work: Coroutine[Any, Any, T]) -> T | signal.Signals:
    """Let `work` end by itself, or cancel it at the first signal, which is returned; a second one ends the process."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        for each in before:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        task.cancel()

    before = {each: signal.getsignal(each) for each in handled_signals()}
    for each in before:
        loop.add_signal_handler(each, stop, each)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        return received[0]
    finally:
        for each, handler in before.items() if not received else ():
            loop.remove_signal_handler(each)
            signal.signal(each, handler)
