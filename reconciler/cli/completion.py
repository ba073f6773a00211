"""`tunnels completion`: print a shell completion script."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from reconciler.cli.client import CommandError

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    r"""Print a script that makes SHELL complete commands, options and the ids of running tunnels.

    \b
    echo 'eval "$(tunnels completion bash)"' >> ~/.bashrc
    echo 'eval "$(tunnels completion zsh)"' >> ~/.zshrc
    tunnels completion fish > ~/.config/fish/completions/tunnels.fish

    Exits 0, or 2 for another SHELL.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise CommandError(f'unsupported shell "{shell}": expected {", ".join(_SHELLS)}')
    root = context.find_root()
    name = "tunnels"
    click.echo(kind(root.command, {}, name, f"_{name.upper()}_COMPLETE").source())
