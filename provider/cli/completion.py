"""`emb-provider completion`: what a shell needs to complete commands, options and their values."""

import click

# Names the variable by which click is asked for completions.
_VARIABLE = "_EMB_PROVIDER_COMPLETE"
_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete emb-provider.

    bash: emb-provider completion bash > ~/.local/share/bash-completion/completions/emb-provider

    zsh: emb-provider completion zsh > a file called _emb-provider in a folder of $fpath

    fish: emb-provider completion fish > ~/.config/fish/completions/emb-provider.fish
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    kind = get_completion_class(shell)
    assert kind is not None, "click knows these shells"  # noqa: S101
    context = click.get_current_context().find_root()
    click.echo(kind(context.command, {}, "emb-provider", _VARIABLE).source())
