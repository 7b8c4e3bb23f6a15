"""The command `emb-provider`. Each command is a file of its own, imported when it is called: `--help` stays quick."""

import errno
import importlib
import os
import signal
import sys

import click

import provider
from provider.errors import ProviderError, SettingsError
from provider.process import drop_results, ending_after_interrupt, exiting_at_once, has_reader, prepare_streams

# Name, where it is, and what it does in a line, so that the overview imports none of them.
_COMMANDS = {
    "serve": ("provider.cli.serve:serve", "Start the service."),
    "embed": ("provider.cli.embed:embed", "Embed texts, files or standard input without a server."),
    "rerank": ("provider.cli.rerank:rerank", "Put documents in the order of their relevance to a query."),
    "batch": ("provider.cli.batch:batch", "Submit, watch and fetch batches of a running server."),
    "download": ("provider.cli.download:download", "Fetch a model, for this machine or to carry to another."),
    "convert": ("provider.cli.convert:convert", "Convert a model's pickled weights to safetensors, once."),
    "export": ("provider.cli.export:export", "Write a model in the format of another runtime."),
    "models": ("provider.cli.models:models", "List the configured models and what is known of them."),
    "bench": (
        "provider.cli.bench:bench",
        "Measure a server, or a backend in process: rates, latencies, plots.",
    ),
    "verify": ("provider.cli.verify:verify", "Prove a configuration against the float32 reference."),
    "plan": ("provider.cli.plan:plan", "Say how many machines a load needs."),
    "doctor": ("provider.cli.doctor:doctor", "Say what this machine can do, and what to serve with."),
    "keys": ("provider.cli.keys:keys", "Add, list and revoke API keys."),
    "usage": ("provider.cli.usage:usage", "Show what each key has used."),
    "backends": ("provider.cli.backends:backends", "List the installed backends."),
    "config": ("provider.cli.config:config", "Show the settings in force and where each comes from."),
    "completion": ("provider.cli.completion:completion", "Print what a shell needs to complete commands and options."),
}
_CANNOT_WRITE = (errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC)


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(provider.__version__, prog_name="emb-provider")
def cli() -> None:
    """Self-hosted, OpenAI-compatible embeddings.

    `emb-provider serve` starts the service; the other commands work without one.
    """


def run_cli(command: click.Command = cli, name: str = "emb-provider") -> None:
    """Run a command line and raise SystemExit.

    Our own errors are one line; 2 for settings, 128 and the signal after Ctrl-C or where nobody reads the results, 1
    for everything else.
    """
    prepare_streams()
    try:
        with ending_after_interrupt():
            command(prog_name=name)
    except SystemExit as exc:
        # click has no other code for results that cannot be written.
        if exc.code == 1 and not has_reader(1):
            exc.code = 128 + signal.SIGPIPE
        raise
    except ProviderError as exc:
        from provider.bulk.phrases import message  # noqa: PLC0415 - `--help` must not wait for it

        click.echo(f"emb-provider: {message(exc)}", err=True)
        sys.exit(2 if isinstance(exc, SettingsError) else 1)
    except OSError as exc:
        # The stream that results go to has no file name.
        if exc.filename is not None or exc.errno not in _CANNOT_WRITE:
            raise
        click.echo(f"emb-provider: cannot write the output: {os.strerror(exc.errno)}", err=True)
        drop_results()
        sys.exit(1)


def main() -> None:
    """The entry point: `run_cli`, and the end of the process."""
    with exiting_at_once():
        run_cli()
