"""`tunnels import`."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO

import click
import yaml

from reconciler.cli.client import Trouble
from reconciler.cli.ssh_import.ssh_options import (
    Asked,
    NotSshError,
    SshConfig,
    command_line,
    lines_of,
    shown,
    ssh_config,
)
from reconciler.cli.ssh_import.translate import Fields, Translation, Translator
from reconciler.cli.terminal.table import clean
from reconciler.config.load import Loaded, load_text
from reconciler.config.options import Options
from reconciler.config.schema.document import known_words
from reconciler.config.syntax.config_files import find
from reconciler.config.syntax.yaml_reader import MAX_BYTES, TOO_LARGE
from reconciler.core.addresses import Addresses
from reconciler.system.redaction import Redactor

_NAME_MAX = 63
_WAY = ("host", "port", "jumpHost", "jumpHosts", "proxyCommand")
_HEAD = "# Made by `tunnels import`. Next: `tunnels check --connect` on it, then `tunnels run`.\ntargets:\n"


@click.command("import", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
@click.option(
    "--ssh-config",
    "configs",
    type=click.Path(exists=True, dir_okay=False),
    multiple=True,
    help="Resolve hosts by this file; alone, carry over its Host blocks that forward something (may be repeated).",
)
@click.option("--allow-commands", is_flag=True, help="Carry over ProxyCommand; `run` then needs the same option.")
@click.argument("words", nargs=-1, metavar="[-- COMMAND...]", type=click.UNPROCESSED)
def command(configs: tuple[str, ...], allow_commands: bool, words: tuple[str, ...]) -> None:
    r"""Make a tunnels.yaml of what ssh does today.

    Reads an ssh or autossh command line, or stdin with one on each line, or the Host blocks of an ssh_config; writes
    a file that passes `check`. Whatever has no counterpart is named on stderr.

    \b
    tunnels import -- ssh -N -L 5432:db.internal:5432 -J jump deploy@bastion > tunnels.yaml
    crontab -l | grep autossh | tunnels import > tunnels.yaml
    tunnels import --ssh-config ~/.ssh/config > tunnels.yaml

    Exits 1 if something could not be carried over.
    """
    config = ssh_config((path, _text(path)) for path in configs)
    lost = list(config.lost)
    carrier = Translator(config, os.environ, allow_commands)
    carried = _distinct(carrier.carry(asked) for asked in _asked(words, config, lost))
    if not carried and not lost:
        lost.append("nothing to carry over: no ssh command, and no Host block with a forward")
    file = _File(allow_commands)
    for one in carried:
        lost += [f"{one.where}: {said}" for said in one.lost]
        lost += [f"{one.where}: {said}" for said in file.add(one)]
        if one.host == one.fields.get("host") and "." not in one.host and one.host != "localhost" and not configs:
            said = f"if {one.host} is a Host of your ssh_config, add --ssh-config ~/.ssh/config"
            click.echo(f"note: {one.where}: {clean(said)}", err=True)
    if file.targets:
        text = file.text()
        lost += [str(error) for error in load_text(text, options=file.options, environ=os.environ).errors]
        click.echo(text, nl=False)
    for said in lost:
        click.echo(f"not carried over: {clean(said)}", err=True)
    sys.exit(1 if lost else 0)


def _text(path: str) -> str:
    """The content of an ssh_config, which may come through a pipe."""
    found = find(path)
    if found.problem is not None:
        raise Trouble(str(found.problem))
    return found.data.decode("utf-8", "replace")


def _all(given: TextIO) -> str:
    text = given.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise Trouble(f"<stdin>: {TOO_LARGE}")
    return text


def _asked(words: tuple[str, ...], config: SshConfig, lost: list[str]) -> Iterator[Asked]:
    """What is to be carried over; what is no ssh command is told in `lost`."""
    if words:
        lines: Iterable[tuple[str, tuple[str, ...] | str]] = [
            ("command", tuple(shlex.split(words[0]) if len(words) == 1 else words))
        ]
    elif config.blocks:
        for host in config.hosts():
            if any(one.name.endswith("forward") for one in config.of(host)):
                yield Asked(f"Host {host}", host)
        return
    else:
        given = sys.stdin or io.StringIO()  # it may be closed
        if given.isatty():
            click.echo("reading ssh command lines from the terminal, one on each line; Ctrl-D ends", err=True)
        lines = ((f"line {number}", line) for number, line in lines_of(_all(given)))
    for where, line in lines:
        try:
            yield command_line(line, where)
        except NotSshError as error:
            lost.append(f"{where}: {error}")


def _distinct(carried: Iterable[Translation]) -> list[Translation]:
    """`Host prod prod-alias` is one server, not two."""
    made: list[Translation] = []
    for one in carried:
        if not one.fields or all((one.fields, one.forwards) != (it.fields, it.forwards) for it in made):
            made.append(one)
    return made


class _File:
    """tunnels.yaml as it grows. Each tunnel is tried by itself, so that one bad forward costs no other."""

    def __init__(self, allow_commands: bool) -> None:
        # What the variables of one line hold is hidden until all is told.
        self.options = Options(allow_commands=allow_commands, hidden=Redactor(known_words()))
        self.targets: dict[str, tuple[Fields, list[Fields]]] = {}
        self._names: dict[str, set[str]] = {}
        self._taken = Addresses(())

    def add(self, carried: Translation) -> list[str]:
        """Returns what could not be carried over."""
        if not carried.fields:
            return []
        if not carried.forwards:
            return ["no -L, -R or -D: nothing to forward"]
        problems = self._drop_invalid(carried.fields)
        if problems and "host" not in carried.fields:
            return problems
        name = self._target(carried)
        problems += [self._tunnel(name, *forward) for forward in carried.forwards]
        if not self.targets[name][1]:
            del self.targets[name]
        return [said for said in problems if said]

    def _drop_invalid(self, fields: Fields) -> list[str]:
        """Take out the fields that no file may have. Without its way there a target is no use: its host goes too."""
        problems = []
        for name, value in list(fields.items()):
            own_key = {"privateKey": fields["privateKey"]} if "privateKey" in fields else {}  # certificates go with one
            alone: Fields = {"host": "a", "user": "u", "agent": True, "tunnels": []} | own_key | {name: value}
            errors = self._load({"targets": {"a": alone}}).errors
            if errors:
                problems.append(f"{name} {shown(str(value))}: {errors[0].message}")
                del fields[name]
                if name in _WAY:
                    fields.pop("host", None)
        return problems

    def _load(self, document: object) -> Loaded:
        return load_text(_yaml(document), options=self.options, environ=os.environ)

    def _target(self, carried: Translation) -> str:
        """The same server in the same way is the same target; else a name of its own."""
        base = re.sub(r"[^a-z0-9._-]+", "-", carried.host.lower()).strip("._-")[: _NAME_MAX - 3] or "target"
        name, number = base, 1
        while name in self.targets and self.targets[name][0] != carried.fields:
            number += 1
            name = f"{base}-{number}"
        self.targets.setdefault(name, (carried.fields, []))
        return name

    def _tunnel(self, target: str, kind: str, short: str, said: str) -> str:
        entry: Fields = {kind: short}
        alone = {"targets": {target: {"host": "a", "user": "u", "agent": True, "tunnels": [entry]}}}
        loaded = self._load(alone)
        if loaded.errors:
            return f"{said}: {loaded.errors[0].message}"
        spec = next(iter(loaded.desired.tunnels.values()))
        tunnels = self.targets[target][1]
        if any(kind in other and other[kind] == short for other in tunnels):
            return ""  # asked for twice
        if self._taken.meets(spec.listen):
            return f"{said}: {spec.listen} is taken by another one"
        self._taken.add(spec.listen)
        names = self._names.setdefault(target, set())
        name, number = spec.name, 1
        while name in names:
            number += 1
            name = f"{spec.name}-{number}"
        names.add(name)
        tunnels.append(entry if number == 1 else {"name": name} | entry)
        return ""

    def text(self) -> str:
        made = [_HEAD]
        for name, (fields, tunnels) in self.targets.items():
            made.append(_indented(f"{name}:\n" + _indented(_yaml(fields) + "tunnels:\n")))
            made += [f"      - {_flow(tunnel)}\n" for tunnel in tunnels]
        return "".join(made)


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _flow(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=True, width=1000).strip()


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
