"""systemd units: systemd.service(5), systemd.exec(5), systemd.unit(5).

A text may have several units, as `systemctl cat` prints them, each after a comment with its path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from reconciler.cli.ssh_import.sources.collector import Collector
from reconciler.cli.ssh_import.sources.place import Source
from reconciler.cli.ssh_import.sources.programs.ssh_arguments import has_forward
from reconciler.cli.ssh_import.sources.programs.wrappers import user_note
from reconciler.cli.ssh_import.sources.systemd.specifiers import specified, specifiers
from reconciler.cli.ssh_import.sources.systemd.words import replaced, split, split_argument
from reconciler.cli.ssh_import.sources.values import Argument, Launch, no_value

_PATH_COMMENT = re.compile(r"#\s+/\S*/([^/\s]+\.service)\s*")  # of a unit, not of its drop-in
_SECTION = re.compile(r"\s*\[([^\]]*)\]\s*")
_SETTING = re.compile(r"\s*([A-Za-z]+)\s*=\s*(.*)", re.DOTALL)
_PREFIX = re.compile(r"[-@:+!|]*")


@dataclass(slots=True)
class _Unit:
    """Settings of one unit. `commands` are (line, setting, value)."""

    name: str
    commands: list[tuple[int, str, str]] = field(default_factory=list)
    environment: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    user: str = ""
    is_system: bool = False


def read(collector: Collector, source: Source) -> None:
    units, others = _units(source)
    for unit in units:
        _read(collector, source, unit)
    if others:  # such as a crontab above a unit; empty lines keep the line numbers
        lines = [others.get(number, "") for number, _ in source.lines()]
        collector.read_inside(collector, "\n".join(lines), source.line)


def _units(source: Source) -> tuple[list[_Unit], dict[int, str]]:
    """Return the units of a text, with the drop-ins of each, and the lines that belong to none."""
    others: dict[int, str] = {}
    own_name = PurePosixPath(source.name).name
    units = [_Unit(own_name if own_name.endswith(".service") else "")]
    section, has_paths = "Service", False
    for number, line in source.joined(" ", comments="#;"):
        if line.lstrip()[:1] in ("#", ";"):
            path = _PATH_COMMENT.fullmatch(line)
            if path is not None:
                units.append(_Unit(path[1]))
                has_paths = True
            continue
        header = _SECTION.fullmatch(line)
        if header is not None:
            section = header[1]
            if section == "Unit" and units[-1].commands and not has_paths:
                units.append(_Unit(""))  # with paths, it may be the [Unit] of a drop-in
            continue
        setting = _SETTING.fullmatch(line)
        if setting is not None:
            _set(units[-1], section, setting[1], setting[2].strip(), number)
        elif line.strip():
            others[number] = line
    return units, others


def _set(unit: _Unit, section: str, name: str, value: str, line: int) -> None:
    if section == "Install":
        unit.is_system = unit.is_system or "multi-user.target" in value
    elif section != "Service":
        return
    elif name in ("ExecStart", "ExecStartPre", "ExecStartPost"):
        if value:
            unit.commands.append((line, name, value))
        else:
            unit.commands = [one for one in unit.commands if one[1] != name]
    elif name == "Environment":
        unit.environment = [*unit.environment, value] if value else []
    elif name == "EnvironmentFile":
        unit.files = [*unit.files, value.removeprefix("-")] if value else []
    elif name == "User":
        unit.user, unit.is_system = value, True


def _read(collector: Collector, source: Source, unit: _Unit) -> None:
    environment: dict[str, Argument] = {}
    known = specifiers(unit.name, unit.is_system, collector.environ.get("USER", Argument("")).text)
    hint = f", it may be set in {unit.files[-1]}" if unit.files else ""
    notes = user_note(unit.user)
    for value in unit.environment:
        collector.budget.spend(len(value))
        for word in split(value):
            name, equals, content = word.text.partition("=")
            if equals:
                environment[name] = specified(content, known)
    for line, setting, value in unit.commands:
        prefix = _PREFIX.match(value)
        signs = prefix[0] if prefix is not None else ""
        rest = value[len(signs) :].strip()
        collector.budget.spend(len(value) + len(environment))
        launch = Launch(source.place(line), (), environment, notes)
        if "|" in signs:
            collector.shell(launch, rest)
            continue
        for words in _commands(rest, known, environment, hint, is_replaced=":" not in signs):
            program = words[:1] if "@" not in signs else words[:2]
            words = [*program[:1], *words[len(program) :]]  # noqa: PLW2901 - `@` gives argv[0] as a word of its own
            if setting == "ExecStart" or has_forward(words):
                collector.take(replace(launch, words=tuple(words)))


def _commands(
    text: str, known: dict[str, str], environment: dict[str, Argument], hint: str, is_replaced: bool
) -> list[list[Argument]]:
    """Split a setting into its commands: a semicolon between spaces separates them."""
    commands: list[list[Argument]] = [[]]
    for word in split(text):
        if word.text == ";" and not word.quoted:
            commands.append([])
            continue
        argument = specified(word.text, known)
        if not is_replaced:
            commands[-1].append(argument)
        elif (whole := split_argument(word.text)) is not None:
            commands[-1] += _several(whole, environment, hint)
        else:
            commands[-1].append(replaced(argument, environment, hint))
    return [words for words in commands if words]


def _several(name: str, environment: dict[str, Argument], hint: str) -> list[Argument]:
    """Return the words that `$NAME` stands for."""
    value = environment.get(name)
    if value is None:
        return [Argument(f"${name}", no_value(name, hint))]
    return [Argument(word.text, value.unknown) for word in split(value.text)] if not value.unknown else [value]
