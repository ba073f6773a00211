"""Dockerfiles: the ENTRYPOINT and CMD of each stage."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from reconciler.cli.ssh_import.sources.collector import Collector
from reconciler.cli.ssh_import.sources.containers.container import Container, exec_form
from reconciler.cli.ssh_import.sources.place import Source
from reconciler.cli.ssh_import.sources.shell.template import replace
from reconciler.cli.ssh_import.sources.values import Argument, Launch

_INSTRUCTION = re.compile(r"[ \t]*([A-Za-z]+)[ \t]+(.*)", re.DOTALL)
_PAIR = re.compile(r"(?<!\w)([A-Za-z_][A-Za-z0-9_]*)=((?:\"(?:[^\"\\]|\\.)*\"|'[^']*'|\\.|[^\s\"'\\])*)", re.DOTALL)
_QUOTES = re.compile(r"\"((?:[^\"\\]|\\.)*)\"|'([^']*)'|\\(.)", re.DOTALL)


@dataclass(slots=True)
class _Stage:
    """The instructions of a stage. `entrypoint` and `command` are (line, value of the instruction)."""

    image: str = ""
    entrypoint: tuple[int, str] | None = None
    command: tuple[int, str] | None = None
    environment: dict[str, Argument] = field(default_factory=dict)


def read(collector: Collector, source: Source) -> None:
    stage = _Stage()
    arguments: dict[str, Argument] = {}
    for number, line in source.joined(" ", comments="#"):
        found = _INSTRUCTION.fullmatch(line)
        if found is None or line.lstrip().startswith("#"):
            continue
        value = found[2].strip()
        match found[1].upper():
            case "FROM":
                _start(collector, source, stage)
                stage = _Stage(value.split()[0] if value else "")
            case "ENV":
                _set(collector, stage.environment, value, {**arguments, **stage.environment})
            case "ARG":
                _set(collector, arguments, value, arguments)
            case "ENTRYPOINT":
                stage.entrypoint = (number, value)
            case "CMD":
                stage.command = (number, value)
            case _:
                pass  # it starts nothing in the container
    _start(collector, source, stage)


def _set(collector: Collector, into: dict[str, Argument], text: str, known: dict[str, Argument]) -> None:
    """Carry out ENV or ARG: `NAME=VALUE NAME=VALUE`, or the older `NAME VALUE`."""
    collector.budget.spend(len(text) + len(known))
    pairs = [(found[1], found[2]) for found in _PAIR.finditer(text)]
    if not pairs:
        name, _, value = text.partition(" ")
        pairs = [(name, value.strip())] if value else []
    for name, value in pairs:
        plain = _QUOTES.sub(lambda one: next((part for part in one.groups() if part is not None), ""), value)
        into[name] = replace(plain, known, collector.budget)


def _start(collector: Collector, source: Source, stage: _Stage) -> None:
    """Take the program that a stage starts. CMD gives arguments to an ENTRYPOINT that is a list."""
    main = stage.entrypoint or stage.command
    if main is None:
        return
    where = source.place(main[0])
    words = _list(main[1])
    if words is None:
        collector.shell(Launch(where, (), stage.environment), main[1])
        return
    more: list[Argument] = []
    if stage.entrypoint is not None and stage.command is not None:
        listed = _list(stage.command[1])
        more = listed if listed is not None else [Argument(word) for word in ("/bin/sh", "-c", stage.command[1])]
    container = Container(where, stage.image, [*words, *more], (), stage.environment).launch()
    if container is not None:
        collector.take(container)


def _list(text: str) -> list[Argument] | None:
    """Parse the list form of CMD, None for the shell form."""
    if not text.startswith("["):
        return None
    try:
        words = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return exec_form([str(word) for word in words]) if isinstance(words, list) else None
