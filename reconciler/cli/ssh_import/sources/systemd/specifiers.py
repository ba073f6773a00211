"""The specifiers of systemd in units, such as %i: systemd.unit(5)."""

from __future__ import annotations

import re

from reconciler.cli.ssh_import.sources.values import Argument, Unknown

_SPECIFIER = re.compile(r"%(.?)", re.DOTALL)
_UNIT_NAME = re.compile(r"([^@]*)(?:@(.*))?\.service")
_HEX = re.compile(r"\\x([0-9a-fA-F]{2})")
_OF_NAME = frozenset("iInNpPjJ")
_SYSTEM = {"h": "/root", "u": "root", "t": "/run", "E": "/etc", "S": "/var/lib", "C": "/var/cache", "L": "/var/log"}
_USER = {"h": "~", "E": "~/.config", "S": "~/.local/state", "C": "~/.cache", "L": "~/.local/state/log"}
_BOTH = {"%": "%", "T": "/tmp", "V": "/var/tmp"}  # noqa: S108 - the values of the specifiers, not files


def specifiers(unit: str, is_system: bool, user: str) -> dict[str, str]:
    """Return the specifiers that are known.

    unit       the name of the unit, "" if it is not known
    is_system  True if the system manager runs the unit, False for the manager of a user
    user       the user of that manager, "" if it is not known
    """
    made = _BOTH | (_SYSTEM if is_system else _USER | ({"u": user} if user else {}))
    parts = _UNIT_NAME.fullmatch(unit)
    if parts is None:
        return made
    prefix, instance = parts[1], parts[2]
    made |= {"p": prefix, "P": _unescaped(prefix)}
    if instance != "":  # it is empty in the name of a template, and None in one without @
        last = prefix.rpartition("-")[2]
        made |= {"n": unit, "N": unit.removesuffix(".service"), "j": last, "J": _unescaped(last)}
    if instance:
        made |= {"i": instance, "I": _unescaped(instance)}
    return made


def specified(text: str, known: dict[str, str]) -> Argument:
    """Replace specifiers in a text."""
    unknown: list[Unknown] = []

    def value(found: re.Match[str]) -> str:
        letter = found[1]
        if letter in known:
            return known[letter]
        if letter in _OF_NAME:
            reason = f"`%{letter}` depends on the name of the unit: write its value in its place"
        else:
            shown = f"%{letter}" if letter.isascii() and letter.isalnum() else "%"
            reason = f"`{shown}` is known only to systemd: write its value in its place, or `%%` for a percent sign"
        unknown.append(Unknown(reason))
        return found[0]

    made = _SPECIFIER.sub(value, text) if "%" in text else text
    return Argument(made, unknown[0] if unknown else None)


def _unescaped(text: str) -> str:
    return _HEX.sub(lambda found: chr(int(found[1], 16)), text.replace("-", "/"))
