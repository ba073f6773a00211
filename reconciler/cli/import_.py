"""`tunnels import`: translate ssh command lines or ssh_config to a tunnels.yaml."""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO

import click

from reconciler.cli.client import CommandError
from reconciler.cli.ssh_import.config_files import UnreadableConfigError
from reconciler.cli.ssh_import.config_hosts import commands_in_config, unused_forwards
from reconciler.cli.ssh_import.found import FoundCommand
from reconciler.cli.ssh_import.openssh import NoSshError, openssh
from reconciler.cli.ssh_import.sources.find import find_commands
from reconciler.cli.ssh_import.translate import Translation, Translator
from reconciler.cli.ssh_import.tunnels_file import TunnelsFile
from reconciler.cli.terminal.table import clean
from reconciler.config.syntax.yaml_reader import MAX_BYTES, TOO_LARGE
from reconciler.system.temporary_directory import NoTemporaryDirectoryError, temporary_directory

COMMANDS_MAX = 500  # of one import: each runs `ssh -G`, which takes some milliseconds


@click.command("import", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
@click.option(
    "--ssh-config",
    "configs",
    type=click.Path(exists=True, dir_okay=False),
    multiple=True,
    help="Read this ssh_config instead of ssh's own. Without COMMAND, translate its hosts with forwards (may be "
    "repeated).",
)
@click.option(
    "--allow-commands",
    is_flag=True,
    help="Let `Match exec` run programs, and translate ProxyCommand; `run` then needs the same option.",
)
@click.argument("words", nargs=-1, metavar="[-- COMMAND...]", type=click.UNPROCESSED)
def command(configs: tuple[str, ...], allow_commands: bool, words: tuple[str, ...]) -> None:
    r"""Translate ssh command lines or ssh_config to a tunnels.yaml.

    Finds ssh and autossh commands in COMMAND, or in a text on stdin (a script, a crontab, a systemd unit, a compose
    file), or takes the hosts of an ssh_config. Asks `ssh -G` what each means. Writes a file that passes `check` to
    stdout, and says on stderr what has no counterpart.

    \b
    tunnels import -- ssh -N -L 5432:db.internal:5432 -J jump deploy@bastion > tunnels.yaml
    crontab -l | tunnels import > tunnels.yaml
    tunnels import --ssh-config ~/.ssh/config > tunnels.yaml

    Exits 1 if something could not be translated.
    """
    try:
        ssh = openssh()
        with temporary_directory("tunnels-import-") as directory:
            translator = Translator(ssh, directory, configs, os.environ, allow_commands)
            sys.exit(_import(translator, words))
    except (NoSshError, NoTemporaryDirectoryError, UnreadableConfigError) as error:
        raise CommandError(str(error)) from None


def _import(translator: Translator, words: tuple[str, ...]) -> int:
    """Translate and print. Returns the exit code."""
    commands, lost = _commands(translator, words)
    if len(commands) > COMMANDS_MAX:
        lost.append(f"only the first {COMMANDS_MAX} of {len(commands)} commands are translated: give fewer at a time")
    translations = [translator.translate(one) for one in commands[:COMMANDS_MAX]]
    if not words and translator.configs and not lost:
        lost += unused_forwards(translator, translations)
    if not translations and not lost:
        lost.append("no input: expected an ssh command or a Host with a forward")
    file = TunnelsFile(translator.environ, commands=translator.commands)
    for one in _distinct(translations):
        lost += [f"{one.where}: {message}" for message in (*one.messages.lost, *file.add(one))]
        for message in dict.fromkeys((*one.messages.notes, *file.notes)):
            click.echo(f"note: {one.where}: {clean(message)}", err=True)
    if file:
        lost += file.errors()
        click.echo(file.text(), nl=False)
    for message in dict.fromkeys((*translator.lost(), *lost)):
        click.echo(f"not translated: {clean(message)}", err=True)
    return 1 if lost or translator.lost() else 0


def _commands(translator: Translator, words: tuple[str, ...]) -> tuple[list[FoundCommand], list[str]]:
    """Return the ssh commands to translate, and messages about what could not be read."""
    if words:
        return find_commands(words[0] if len(words) == 1 else shlex.join(words), "command", translator.environ)
    if translator.configs:
        return commands_in_config(translator)
    stream = sys.stdin or io.StringIO()  # None if stdin is closed
    if stream.isatty():
        click.echo("reading ssh command lines from the terminal, one per line: end with Ctrl-D", err=True)
    return find_commands(_read_all(stream), "", translator.environ)


def _read_all(stream: TextIO) -> str:
    text = stream.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise CommandError(f"<stdin>: {TOO_LARGE}")
    return text


def _distinct(translations: Iterable[Translation]) -> Iterator[Translation]:
    """Drop duplicates, such as the aliases of `Host prod prod-alias`."""
    distinct: list[Translation] = []
    for one in translations:
        if not one.fields or all((one.fields, one.forwards) != (it.fields, it.forwards) for it in distinct):
            distinct.append(one)
            yield one
