"""Configuration of supervisord: `command=` of each `[program:NAME]`."""

from __future__ import annotations

import configparser
import re
import shlex

from reconciler.cli.ssh_import.sources.collector import Collector
from reconciler.cli.ssh_import.sources.containers.container import exec_form
from reconciler.cli.ssh_import.sources.place import Source
from reconciler.cli.ssh_import.sources.programs.wrappers import user_note
from reconciler.cli.ssh_import.sources.values import Argument, Launch, Unknown, no_value

_EXPANSION = re.compile(r"%(?:%|\(([^)\n]*)\)[sd])")
_ENVIRONMENT = re.compile(r"(?<!\w)([A-Za-z_][A-Za-z0-9_]*)=(?:\"([^\"]*)\"|'([^']*)'|([^,\"']*))")


def read(collector: Collector, source: Source) -> None:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",), strict=False, delimiters=("=", ":"))
    try:
        parser.read_string(source.text)
    except configparser.Error:
        collector.say(f"{source.name or 'input'}: not valid as a configuration of supervisord: correct it")
        return
    shared = _variables(collector, parser.get("supervisord", "environment", fallback=""), "", {})
    for section in parser.sections():
        program = section.partition(":")[2]
        command = parser.get(section, "command", fallback=parser.get(section, "cmd", fallback=""))
        if not program or not command:
            continue
        where = f"{source.name} [{section}] command".lstrip()
        text = parser.get(section, "environment", fallback="")
        environment = shared | _variables(collector, text, program, shared)
        user = parser.get(section, "user", fallback="")
        notes = user_note(user)
        try:
            words = shlex.split(command)
        except ValueError as error:
            collector.say(f"{where}: cannot be parsed, {str(error).lower()}: correct it")
            continue
        collector.budget.spend(len(command) + len(environment))
        arguments = [_expanded(word, collector, program, environment) for word in exec_form(words)]
        collector.take(Launch(where, tuple(arguments), environment, notes))


def _variables(collector: Collector, text: str, program: str, known: dict[str, Argument]) -> dict[str, Argument]:
    """Parse `environment=A="x",B=y`."""
    collector.budget.spend(len(text) + len(known))
    pairs = ((found[1], found[2] or found[3] or (found[4] or "").strip()) for found in _ENVIRONMENT.finditer(text))
    return {name: _expanded(Argument(value), collector, program, known) for name, value in pairs}


def _expanded(word: Argument, collector: Collector, program: str, known: dict[str, Argument]) -> Argument:
    """Replace `%(ENV_NAME)s`, `%(program_name)s` and `%%`."""
    unknown: list[Unknown | None] = [word.unknown]

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "%"
        if name == "program_name":
            return program
        variable = name.removeprefix("ENV_")
        one = known.get(variable, collector.environ.get(variable))
        if one is None or variable == name:
            unknown.append(no_value(variable if variable != name else f"%({name[:40]})s"))
            return found[0]
        unknown.append(one.unknown)
        return one.text

    text = _EXPANSION.sub(value, word.text) if "%" in word.text else word.text
    collector.budget.spend(len(text))
    return Argument(text, next((one for one in unknown if one is not None), None))
