"""`tunnels completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from reconciler.cli.client import Trouble

_SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    r"""Print what makes SHELL complete commands, options and the ids of running tunnels.

    \b
    echo 'eval "$(tunnels completion bash)"' >> ~/.bashrc
    echo 'eval "$(tunnels completion zsh)"' >> ~/.zshrc
    tunnels completion fish > ~/.config/fish/completions/tunnels.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise Trouble(f"nothing is known about {shell}")
    root = context.find_root()
    name = "tunnels"
    click.echo(kind(root.command, {}, name, f"_{name.upper()}_COMPLETE").source())
