"""`tunnels trust`: fetch host keys and print `hostKeys:` lines to pin them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import groupby

import click

from reconciler.cli.client import CommandError
from reconciler.cli.files import files
from reconciler.cli.host_keys import FetchedKey, Server, fetch_all, servers_of
from reconciler.cli.terminal.table import clean, print_message
from reconciler.config.load import Config, Loaded

_NEW = "new key: compare it with the key on the server before you pin it; run there"
_REVOKED = "REVOKED: known hosts mark this key as revoked; do not pin it"
_KNOWN = "already known"


@click.command("trust")
@files
def command(config: Config) -> None:
    r"""Fetch the host keys of every target and jump host, to compare and pin.

    Names of targets (globs are allowed) after FILE select targets; without names, all are fetched. Logs in only
    to jump hosts, to reach the servers behind them. Writes no file: the lines go to stdout.

    \b
    tunnels trust tunnels.yaml
    tunnels trust tunnels.yaml prod 'staging-*'

    Exits 1 if a key cannot be fetched.
    """
    paths, names = _split(config.paths)
    loaded = Config(paths, environ=dict(os.environ), options=config.options).reload()
    for error in loaded.errors:
        print_message("error", error)
    if not loaded.usable:
        sys.exit(1)
    fetched = fetch_all(servers_of(loaded.desired, _chosen(loaded, names)), config.environ)
    for _, group in groupby(fetched, key=lambda one: (one.server.target.name, one.server.number)):
        _print_group(loaded, list(group))
    sys.exit(1 if loaded.errors or any(one.failure for one in fetched) else 0)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files and the names of targets. If a file is given, a name is a target even if a directory has it."""
    paths = [one for one in arguments if _is_file(one)] or [one for one in arguments if os.path.isdir(one)]  # noqa: PTH112 - Path.is_dir raises where a name is too long
    return paths, [one for one in arguments if one not in paths]


def _is_file(path: str) -> bool:
    """Return True if the argument is a file. Names of targets have no slash."""
    return path == "-" or "/" in path or path.endswith((".yaml", ".yml")) or os.path.isfile(path)  # noqa: PTH113


def _chosen(loaded: Loaded, patterns: list[str]) -> list[str]:
    names = [name for name in loaded.desired.targets if name not in loaded.broken]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise CommandError(f'no target matches "{pattern}": {_known(names)}')
    for name, why in loaded.broken.items():
        print_message("warning", f"{name} is skipped: {why}")
    return [name for name in names if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]


def _known(names: list[str]) -> str:
    return f"the targets are {', '.join(names)}" if names else "there are no targets"


def _print_group(loaded: Loaded, group: list[FetchedKey]) -> None:
    """Print the hosts of one server: fingerprints as comments, then the `hostKeys:` lines to paste."""
    name = _name(loaded, group[0].server)
    for one in group:
        if one.failure is not None:
            print_message("error", f"{name}: {one.failure.message}")
    good = [one for one in group if one.failure is None]
    if not good:
        return
    for one in good:
        click.echo(f"# {clean(f'{name}: {one.server.endpoint}')}")
        click.echo(f"#   {clean(one.key_type)} {one.fingerprint}")
        for line in _verdict(one):
            click.echo(f"#   {clean(line)}")
    click.echo("hostKeys:")
    for key in dict.fromkeys(one.line for one in good if one.state != "revoked"):
        click.echo(f"  - {clean(key)}")
    click.echo("")


def _verdict(one: FetchedKey) -> list[str]:
    match one.state:
        case "new":
            kind = one.key_type.removeprefix("ssh-").partition("-")[0]
            return [_NEW, f"  ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub"]
        case "known":
            return [_KNOWN]
        case "revoked":
            return [_REVOKED]
        case changed:
            return [
                changed.replace("changed", "CHANGED KEY", 1),
                "if the server was not reinstalled, this may be an attack",
            ]


def _name(loaded: Loaded, server: Server) -> str:
    """Return the target that the key is pinned in: the server's own, or the target that is used as a jump host."""
    access = server.target.access
    if server.number == len(access.via):
        return server.target.name
    for target in loaded.desired.targets.values():
        if target.access.hop == server.hop and target.access.via == access.via[: server.number]:
            return target.name
    return f"jump host {server.number + 1} of {server.target.name}"
