"""Divides the arguments of an ssh command: those for `ssh -G`, and those that its output leaves out."""

from __future__ import annotations

import getopt
from collections.abc import Sequence
from dataclasses import dataclass

# The options of ssh(1), those with a value before a colon. Their meaning is left to ssh.
_OPTIONS = "1246ab:c:e:fgi:kl:m:no:p:qstvxyAB:CD:E:F:GI:J:KL:MNO:P:Q:R:S:TVw:W:XY"
_NO_CONNECTION = {"-V": "prints the version", "-Q": "lists algorithms"}
_DROPPED = frozenset({"-E", "-F", "-G", "-O", "-q", "-v", "-W", "-y"})  # logs and output, and the fields of Arguments


class ArgumentsError(Exception):
    """The arguments are not those of a connection. The message says why."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """The arguments of one ssh command.

    words       for `ssh -G`, in their order, with `true` in place of a remote command
    config      the file of -F, "" for none
    names_user  True if the arguments name the user
    stdio       the destination of -W, "" for none
    command     the first word of the remote command, "" for none
    """

    words: tuple[str, ...]
    config: str
    names_user: bool
    stdio: str
    command: str


def parse(given: Sequence[str]) -> Arguments:
    """Divide the arguments. Options may stand before and after the host, as in ssh. Raises ArgumentsError."""
    before, rest = _options(given)
    host, *rest = rest or [""]
    after, command = _options(rest)
    options = [*before, *after]
    for name, value in options:
        if name in _NO_CONNECTION:
            raise ArgumentsError(f"{name} {_NO_CONNECTION[name]} and makes no connection")
        if name == "-O" and value != "forward":
            raise ArgumentsError(f"-O {value} controls a running ssh and opens no tunnel")
    if not host:
        raise ArgumentsError("no host found")
    values = dict(options)
    return Arguments(
        words=(*_kept(before), host, *_kept(after), *(["true"] if command else [])),  # -f needs a command
        config=values.get("-F", ""),
        names_user="-l" in values or "@" in host or any(name == "-o" and _is_user(value) for name, value in options),
        stdio=values.get("-W", ""),
        command=command[0] if command else "",
    )


def _options(given: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    try:
        return getopt.getopt(list(given), _OPTIONS)
    except getopt.GetoptError as error:
        raise ArgumentsError(f"ssh has no option -{error.opt}" if error.opt else "invalid option") from None


def _kept(options: Sequence[tuple[str, str]]) -> list[str]:
    kept: list[str] = []
    for name, value in options:
        if name == "-i":
            # ssh ignores `-i FILE` if the file does not exist. It prints an IdentityFile in either case.
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            kept += ("-o", f'IdentityFile="{escaped}"')
        elif name not in _DROPPED:
            kept += (name, value) if f"{name[1]}:" in _OPTIONS else (name,)
    return kept


def _is_user(option: str) -> bool:
    return option.strip().lower().startswith("user") and option.strip()[4:5] in (" ", "=", "\t")
