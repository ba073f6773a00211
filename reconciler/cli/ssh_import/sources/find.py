"""Finds the ssh commands in a text of any kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from reconciler.cli.ssh_import.found import FoundCommand
from reconciler.cli.ssh_import.sources import crontab, ini_files, property_lists, scripts
from reconciler.cli.ssh_import.sources.collector import Collector
from reconciler.cli.ssh_import.sources.containers import dockerfile, manifests
from reconciler.cli.ssh_import.sources.place import Source
from reconciler.cli.ssh_import.sources.systemd import units
from reconciler.cli.ssh_import.sources.values import Argument, WorkBudget, WorkLimitError

_PLIST = re.compile(r"<plist[\s>]")
_UNIT = re.compile(
    r"^[ \t]*(?:\[(?:Unit|Service|Install)\][ \t]*$|Exec(?:Start|StartPre|StartPost)[ \t]*=)", re.MULTILINE
)
_INI = re.compile(r"^\[(?:program|watcher|eventlistener):[^\]\n]*\]", re.MULTILINE)
_DOCKERFILE = re.compile(r"^[ \t]*(?:FROM[ \t]+\S|(?:CMD|ENTRYPOINT)[ \t]+[\[\w/\"$])", re.MULTILINE)
_YAML = re.compile(
    r"^[ \t]*(?:- )?[\"']?(?:services|apiVersion|image|command|entrypoint|args|containers|run|script|environment)"
    r"[\"']?:(?:[ \t]|$)",
    re.MULTILINE,
)
_PLACE = re.compile(r"\bline ([0-9]{1,9})$")
_DOCUMENT = re.compile(r"<<-?[ \t]*[\"'\\]?[A-Za-z_]")


def find_commands(
    text: str, name: str, environ: Mapping[str, str] | None = None
) -> tuple[list[FoundCommand], list[str]]:
    """Return the ssh commands in a text, and messages about what could not be read.

    text     shell lines or a script, crontab, systemd unit, Dockerfile, compose file, Kubernetes manifest, launchd
             plist, supervisord configuration, or the variables of the autossh image
    name     the file, for messages and for the specifiers of systemd; "" for none
    environ  variables that the text may use without setting them
    """
    given = {variable: Argument(value) for variable, value in (environ or {}).items()}
    collector = Collector(name, given, _read_inside, WorkBudget())
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\0", "")
    source = Source(text, name, is_one_line="\n" not in text.strip())
    label = name or "input"
    try:
        _reader(source)(collector, source)
    except WorkLimitError:
        collector.say(f"{label}: too many commands, or loops that repeat them too often: give fewer at a time")
    except RecursionError:
        collector.say(f"{label}: the text is nested too deeply: give a part of it")
    if not collector.found and not collector.messages:
        if not collector.others and text.strip():
            collector.say(f"{label}: no ssh or autossh command found: expected one, or a file that starts one")
        return collector.others, collector.messages
    return sorted(collector.found, key=_line), collector.messages


def _line(command: FoundCommand) -> int:
    """Return the line of a command, to restore the order of the text: lines of another kind are read last."""
    found = _PLACE.search(command.where)
    return int(found[1]) if found is not None else 0


def _read_inside(collector: Collector, text: str, line: int) -> None:
    """Find commands in a file that a script writes with a here-document."""
    source = Source(text, collector.name, line)
    _reader(source)(collector, source)


def _reader(source: Source) -> Callable[[Collector, Source], None]:
    """Return the reader for the kind of a text."""
    text = source.text
    if text.startswith("#!"):
        return scripts.read
    for kind, reader in ((_PLIST, property_lists.read), (_UNIT, units.read)):
        found = kind.search(text)
        if found is not None and not _DOCUMENT.search(text, 0, found.start()):
            return reader
    if _INI.search(text):
        return ini_files.read
    if _DOCKERFILE.search(text):
        return dockerfile.read
    if _YAML.search(text) or text.lstrip()[:1] == "{":
        return manifests.read
    if any(crontab.is_entry(line) for line in text.split("\n")):
        return crontab.read
    return scripts.read
