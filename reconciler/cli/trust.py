"""`tunnels trust`: fetch host keys, and print `hostKeys:` lines to pin them or add them to a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import groupby

import click

from reconciler.cli.client import CommandError
from reconciler.cli.files import files
from reconciler.cli.host_keys import FetchedKey, fetch_all, servers_of
from reconciler.cli.pinning.known_hosts import append_to_known_hosts
from reconciler.cli.pinning.places import CannotPinError, Places
from reconciler.cli.pinning.rewrite import rewritten
from reconciler.cli.terminal.table import clean, print_message
from reconciler.config.load import Config, Loaded

_NEW = "new key: compare it with the key on the server before you pin it; run there"
_REVOKED = "REVOKED: known hosts mark this key as revoked; do not pin it"
_KNOWN = "already known"


@click.command("trust")
@files
@click.option("--known-hosts", is_flag=True, help="Append new keys to the known_hosts file of their target.")
@click.option(
    "--write",
    "file",
    metavar="FILE",
    type=click.Path(readable=False),
    help="Put the keys as `hostKeys:` into FILE, and keep its comments and layout.",
)
def command(config: Config, known_hosts: bool, file: str | None) -> None:
    r"""Fetch the host keys of every target and jump host, to compare and pin.

    Names of targets (globs are allowed) after FILE select targets; without names, all are fetched. Logs in only
    to jump hosts, to reach the servers behind them. Without options it writes no file: the lines go to stdout.

    The options trust the keys that the servers present now. Compare the fingerprints with those on the servers.
    A key that has changed or is revoked is never added.

    \b
    tunnels trust tunnels.yaml
    tunnels trust tunnels.yaml prod 'staging-*'
    tunnels trust tunnels.yaml prod --known-hosts
    tunnels trust prod --write tunnels.yaml

    Exits 1 if a key cannot be fetched or added.
    """
    if known_hosts and file is not None:
        raise click.UsageError("--known-hosts and --write: expected one of them")
    paths, names = _split(config.paths)
    loaded = Config(paths or ([file] if file else []), environ=config.environ, options=config.options).reload()
    for error in loaded.errors:
        print_message("error", error)
    if not loaded.usable:
        sys.exit(1)
    chosen = _chosen(loaded, names)
    fetched = fetch_all(servers_of(loaded.desired, chosen), config.environ)
    places = Places(loaded)
    for _, group in groupby(fetched, key=lambda one: (one.server.target.name, one.server.number)):
        _print_group(places, list(group), to_paste=not known_hosts and file is None)
    is_added = True
    if known_hosts:
        is_added = _append(places, fetched)
    elif file is not None:
        is_added = _write(places, file, chosen, fetched)
    sys.exit(0 if is_added and not loaded.errors and not any(one.failure for one in fetched) else 1)


def _append(places: Places, fetched: list[FetchedKey]) -> bool:
    """Append the new keys to known_hosts files. Return False if one cannot be added."""
    is_added = True
    for one in fetched:
        if one.failure is not None or one.state == "known":
            continue
        name = places.name(one.server)
        try:
            click.echo(clean(f"{name}: the key of {one.server.endpoint} is added to {append_to_known_hosts(one)}"))
        except CannotPinError as error:
            print_message("error", f"{name}: {error}")
            is_added = False
    return is_added


def _write(places: Places, file: str, names: list[str], fetched: list[FetchedKey]) -> bool:
    """Put the keys into the file. Return False if one cannot be added."""
    is_added = True
    with rewritten(file) as edited:
        for name, keys in places.to_pin(names, fetched):
            try:
                added = edited.add(places.path(edited.root, keys[0].server), keys)
            except CannotPinError as error:
                print_message("error", f"{name}: {error}")
                is_added = False
            else:
                what = f"{added} key{'s' if added > 1 else ''} added to" if added else "no key to add to"
                click.echo(clean(f"{name}: {what} {file}"))
    return is_added


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
        if name not in loaded.desired.targets:
            continue  # a tunnel
        print_message("warning", f"{name} is skipped: {why}")
    return [name for name in names if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)]


def _known(names: list[str]) -> str:
    return f"the targets are {', '.join(names)}" if names else "there are no targets"


def _print_group(places: Places, group: list[FetchedKey], *, to_paste: bool) -> None:
    """Print the hosts of one server: fingerprints as comments, then the `hostKeys:` lines to paste."""
    name = places.name(group[0].server)
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
    keys = list(dict.fromkeys(one.line for one in good if one.state != "revoked"))
    if keys and to_paste:
        click.echo(places.lines(group[0].server, keys))
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
