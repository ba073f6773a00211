"""`tunnels trust`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import groupby

import click

from reconciler.cli.client import Trouble
from reconciler.cli.files import files
from reconciler.cli.host_keys import Fetched, Server, fetch_all, servers_of
from reconciler.cli.terminal.table import clean, complain
from reconciler.config.load import Config, Loaded

_NEW = "new: compare it with the server's own before you paste it, for instance there with"
_REVOKED = "REVOKED: known hosts say that this key must not be trusted; do not paste it"
_KNOWN = "known already"


@click.command("trust")
@files
def command(config: Config) -> None:
    r"""Fetch the host keys of every target and jump host, to compare and to paste.

    FILE may be followed by the names of targets (globs will do); without any, it is all of them. Nobody is logged in
    to, except jump hosts on the way to what is behind them. Nothing is written: the lines go to stdout.

    \b
    tunnels trust tunnels.yaml
    tunnels trust tunnels.yaml prod 'staging-*'

    Exits 1 if a key cannot be fetched.
    """
    paths, names = _split(config.paths)
    loaded = Config(paths, environ=os.environ, options=config.options).reload()
    for error in loaded.errors:
        complain("error", error)
    if not loaded.usable:
        sys.exit(1)
    fetched = fetch_all(servers_of(loaded.desired, _chosen(loaded, names)), config.environ)
    for _, group in groupby(fetched, key=lambda one: (one.server.target.name, one.server.number)):
        _tell(loaded, list(group))
    sys.exit(1 if loaded.errors or any(one.failure for one in fetched) else 0)


def _split(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files, and the names of targets. A name that is also a directory's means the target, if a file is named."""
    paths = [one for one in given if _is_file(one)] or [one for one in given if os.path.isdir(one)]  # noqa: PTH112 - Path.is_dir raises where a name is too long
    return paths, [one for one in given if one not in paths]


def _is_file(path: str) -> bool:
    """A target's name has no slash."""
    return path == "-" or "/" in path or path.endswith((".yaml", ".yml")) or os.path.isfile(path)  # noqa: PTH113


def _chosen(loaded: Loaded, patterns: list[str]) -> list[str]:
    names = [name for name in loaded.desired.targets if name not in loaded.broken]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise Trouble(f"no target is called {pattern}; there are {', '.join(names) or 'none'}")
    for name, why in loaded.broken.items():
        complain("warning", f"{name} is passed over: {why}")
    return [name for name in names if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]


def _tell(loaded: Loaded, group: list[Fetched]) -> None:
    """One server's hosts: comments for people, and the lines to paste, which they share."""
    name = _name(loaded, group[0].server)
    for one in group:
        if one.failure is not None:
            complain("error", f"{name}: {one.failure.message}")
    good = [one for one in group if one.failure is None]
    if not good:
        return
    for one in good:
        click.echo(f"# {clean(f'{name}: {one.server.endpoint}')}")
        click.echo(f"#   {clean(one.key_type)} {one.fingerprint}")
        for line in _standing(one):
            click.echo(f"#   {clean(line)}")
    click.echo("hostKeys:")
    for key in dict.fromkeys(one.line for one in good if one.standing != "revoked"):
        click.echo(f"  - {clean(key)}")
    click.echo("")


def _standing(one: Fetched) -> list[str]:
    match one.standing:
        case "new":
            kind = one.key_type.removeprefix("ssh-").partition("-")[0]
            return [_NEW, f"  ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub"]
        case "known":
            return [_KNOWN]
        case "revoked":
            return [_REVOKED]
        case changed:
            return [changed.replace("changed", "ANOTHER KEY", 1), "if it was not reinstalled, somebody may be between"]


def _name(loaded: Loaded, server: Server) -> str:
    """The target to paste it into: its own, or the one that is named as its jump host."""
    access = server.target.access
    if server.number == len(access.via):
        return server.target.name
    for target in loaded.desired.targets.values():
        if target.access.hop == server.hop and target.access.via == access.via[: server.number]:
            return target.name
    return f"jump host {server.number + 1} of {server.target.name}"
