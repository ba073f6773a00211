"""Crontabs, crontab(5): of a user, or of the system with a user in each line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePosixPath

from reconciler.cli.ssh_import.sources import scripts
from reconciler.cli.ssh_import.sources.collector import Collector, is_program, program
from reconciler.cli.ssh_import.sources.place import Source
from reconciler.cli.ssh_import.sources.programs.wrappers import user_note
from reconciler.cli.ssh_import.sources.values import Argument, Launch

_NUMBERS = r"[0-9*][0-9*/,~\-]*"
_NAMES = rf"(?:{_NUMBERS}|[A-Za-z]{{3}}(?:[,-][A-Za-z]{{3}})*)"
_TIMES = rf"(?:{_NUMBERS}[ \t]+){{3}}{_NAMES}[ \t]+{_NAMES}"
_ENTRY = re.compile(rf"[ \t]*(?:@[a-z]+|{_TIMES})[ \t]+(\S.*)", re.DOTALL)
_ASSIGNMENT = re.compile(r"[ \t]*([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*(.*)", re.DOTALL)
_USER = re.compile(r"([a-z_][a-z0-9_.-]*\$?)[ \t]+(\S+)(.*)", re.DOTALL)
_PERCENT = re.compile(r"(?<!\\)%.*", re.DOTALL)  # the rest is the input of the command


def is_entry(line: str) -> bool:
    return _ENTRY.match(line) is not None


def read(collector: Collector, source: Source) -> None:
    """Find the commands of a crontab. Lines between the entries are read as shell."""
    environment: dict[str, Argument] = {}
    others: dict[int, str] = {}
    for number, line in source.joined(" "):
        if line.lstrip().startswith("#"):
            continue
        entry = _ENTRY.fullmatch(line)
        assignment = _ASSIGNMENT.fullmatch(line)
        if entry is not None:
            text, notes = _command(entry[1], source.name)
            launch = Launch(source.place(number), (), dict(environment), notes, line=number)
            collector.budget.spend(len(environment))
            collector.shell(launch, text, ())
        elif assignment is not None and not _starts_ssh(assignment[2]):
            environment[assignment[1]] = Argument(_unquoted(assignment[2].strip()))
        if entry is None and line.strip():
            others[number] = line
    if others:
        lines = [others.get(number, "") for number, _ in source.lines()]
        scripts.read(collector, replace(source, text="\n".join(lines)))


def _command(text: str, name: str) -> tuple[str, tuple[str, ...]]:
    """Return the command of an entry, without the user of a system crontab, and notes."""
    text = _PERCENT.sub("", text).replace("\\%", "%")
    user = _USER.match(text)
    is_system = "/cron.d/" in name or PurePosixPath(name).name == "crontab"
    if user is None or is_program(user[1]):
        return text, ()
    following = user[2]
    if is_system or following.startswith(("/", "~/")) or is_program(following) or "=" in following:
        return following + user[3], user_note(user[1])
    return text, ()


def _starts_ssh(value: str) -> bool:
    """Return True for the value of `AUTOSSH_PORT=0 autossh ...`: a line of shell between the entries."""
    return any(program(word) in ("ssh", "autossh", "sshpass") for word in value.split())


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
