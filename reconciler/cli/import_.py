"""`tunnels import`: translate ssh command lines or ssh_config to a tunnels.yaml."""

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

from reconciler.cli.client import CommandError
from reconciler.cli.ssh_import.ssh_options import (
    NotSshError,
    SshCommand,
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
_ROUTE = ("host", "port", "jumpHost", "jumpHosts", "proxyCommand")
_HEAD = "# Written by `tunnels import`. Next: `tunnels check --connect FILE`, then `tunnels run FILE`.\ntargets:\n"


@click.command("import", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
@click.option(
    "--ssh-config",
    "configs",
    type=click.Path(exists=True, dir_okay=False),
    multiple=True,
    help="Resolve hosts with this file. Without COMMAND, translate its Host blocks with forwards (may be repeated).",
)
@click.option("--allow-commands", is_flag=True, help="Translate ProxyCommand; `run` then needs the same option.")
@click.argument("words", nargs=-1, metavar="[-- COMMAND...]", type=click.UNPROCESSED)
def command(configs: tuple[str, ...], allow_commands: bool, words: tuple[str, ...]) -> None:
    r"""Translate ssh command lines or ssh_config to a tunnels.yaml.

    Reads an ssh or autossh command line, one command per line from stdin, or the Host blocks of an ssh_config. Writes a
    file that passes `check` to stdout. Reports options without a counterpart on stderr.

    \b
    tunnels import -- ssh -N -L 5432:db.internal:5432 -J jump deploy@bastion > tunnels.yaml
    crontab -l | grep autossh | tunnels import > tunnels.yaml
    tunnels import --ssh-config ~/.ssh/config > tunnels.yaml

    Exits 1 if something could not be translated.
    """
    config = ssh_config((path, _text(path)) for path in configs)
    lost = list(config.lost)
    translator = Translator(config, os.environ, allow_commands)
    translations = _distinct(translator.translate(ssh_command) for ssh_command in _commands(words, config, lost))
    if not translations and not lost:
        lost.append("no input: expected an ssh command or a Host block with a forward")
    file = _File(allow_commands)
    for one in translations:
        lost += [f"{one.where}: {message}" for message in one.lost]
        lost += [f"{one.where}: {message}" for message in file.add(one)]
        if one.host == one.fields.get("host") and "." not in one.host and one.host != "localhost" and not configs:
            note = f"if {one.host} is a Host in your ssh_config, add --ssh-config ~/.ssh/config"
            click.echo(f"note: {one.where}: {clean(note)}", err=True)
    if file.targets:
        text = file.text()
        lost += [str(error) for error in load_text(text, options=file.options, environ=os.environ).errors]
        click.echo(text, nl=False)
    for message in lost:
        click.echo(f"not translated: {clean(message)}", err=True)
    sys.exit(1 if lost else 0)


def _text(path: str) -> str:
    """Read an ssh_config, which may be a pipe."""
    found = find(path)
    if found.problem is not None:
        raise CommandError(str(found.problem))
    return found.data.decode("utf-8", "replace")


def _read_all(stream: TextIO) -> str:
    text = stream.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise CommandError(f"<stdin>: {TOO_LARGE}")
    return text


def _commands(words: tuple[str, ...], config: SshConfig, lost: list[str]) -> Iterator[SshCommand]:
    """Yield the ssh commands to translate. A line that is not an ssh command adds a message to `lost`."""
    if words:
        lines: Iterable[tuple[str, tuple[str, ...] | str]] = [
            ("command", tuple(shlex.split(words[0]) if len(words) == 1 else words))
        ]
    elif config.blocks:
        for host in config.hosts():
            if any(one.name.endswith("forward") for one in config.of(host)):
                yield SshCommand(f"Host {host}", host)
        return
    else:
        stream = sys.stdin or io.StringIO()  # None if stdin is closed
        if stream.isatty():
            click.echo("reading ssh command lines from the terminal, one per line: end with Ctrl-D", err=True)
        lines = ((f"line {number}", line) for number, line in lines_of(_read_all(stream)))
    for where, line in lines:
        try:
            yield command_line(line, where)
        except NotSshError as error:
            lost.append(f"{where}: {error}")


def _distinct(translations: Iterable[Translation]) -> list[Translation]:
    """Drop duplicates, such as the aliases of `Host prod prod-alias`."""
    distinct: list[Translation] = []
    for one in translations:
        if not one.fields or all((one.fields, one.forwards) != (it.fields, it.forwards) for it in distinct):
            distinct.append(one)
    return distinct


class _File:
    """Builds the tunnels.yaml. Each tunnel is validated by itself, so that an invalid forward affects no other."""

    def __init__(self, allow_commands: bool) -> None:
        # One redactor for all lines, so that values of variables are hidden in all messages.
        self.options = Options(allow_commands=allow_commands, hidden=Redactor(known_words()))
        self.targets: dict[str, tuple[Fields, list[Fields]]] = {}
        self._names: dict[str, set[str]] = {}
        self._taken = Addresses(())

    def add(self, one: Translation) -> list[str]:
        """Add a target and its tunnels. Returns messages about parts that could not be added."""
        if not one.fields:
            return []
        if not one.forwards:
            return ["nothing to forward: expected -L, -R or -D"]
        problems = self._drop_invalid(one.fields)
        if problems and "host" not in one.fields:
            return problems
        name = self._target(one)
        problems += [self._tunnel(name, *forward) for forward in one.forwards]
        if not self.targets[name][1]:
            del self.targets[name]
        return [message for message in problems if message]

    def _drop_invalid(self, fields: Fields) -> list[str]:
        """Remove invalid fields and return the messages. If the address or route is invalid, `host` is removed too."""
        problems = []
        for name, value in list(fields.items()):
            own_key = (
                {"privateKey": fields["privateKey"]} if "privateKey" in fields else {}
            )  # a certificate is valid only with a key
            minimal: Fields = {"host": "a", "user": "u", "agent": True, "tunnels": []} | own_key | {name: value}
            errors = self._load({"targets": {"a": minimal}}).errors
            if errors:
                problems.append(f"{name} {shown(str(value))}: {errors[0].message}")
                del fields[name]
                if name in _ROUTE:
                    fields.pop("host", None)
        return problems

    def _load(self, document: object) -> Loaded:
        return load_text(_yaml(document), options=self.options, environ=os.environ)

    def _target(self, one: Translation) -> str:
        """Return the name of the target with the same fields, or add one under a new name."""
        base = re.sub(r"[^a-z0-9._-]+", "-", one.host.lower()).strip("._-")[: _NAME_MAX - 3] or "target"
        name, number = base, 1
        while name in self.targets and self.targets[name][0] != one.fields:
            number += 1
            name = f"{base}-{number}"
        self.targets.setdefault(name, (one.fields, []))
        return name

    def _tunnel(self, target: str, kind: str, short: str, label: str) -> str:
        """Add a tunnel. Returns a message if it cannot be added, else ""."""
        entry: Fields = {kind: short}
        document = {"targets": {target: {"host": "a", "user": "u", "agent": True, "tunnels": [entry]}}}
        loaded = self._load(document)
        if loaded.errors:
            return f"{label}: {loaded.errors[0].message}"
        spec = next(iter(loaded.desired.tunnels.values()))
        tunnels = self.targets[target][1]
        if any(kind in other and other[kind] == short for other in tunnels):
            return ""  # duplicate
        if self._taken.meets(spec.listen):
            return f"{label}: another tunnel already listens on {spec.listen}"
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
        parts = [_HEAD]
        for name, (fields, tunnels) in self.targets.items():
            parts.append(_indented(f"{name}:\n" + _indented(_yaml(fields) + "tunnels:\n")))
            parts += [f"      - {_flow(tunnel)}\n" for tunnel in tunnels]
        return "".join(parts)


def _yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _flow(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=True, width=1000).strip()


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
