"""Parses ssh command lines, `-o` options and ssh_config files.

The result is keywords of ssh_config(5) in their order of precedence. `translate.py` gives them their meaning.
"""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePath

from reconciler.core.secret import may_hold_secret

_TAKE_VALUE = frozenset("BbcDEeFIiJLlmOoPpQRSWw")  # options with a value, ssh(1)
_AUTOSSH_TAKE_VALUE = frozenset("M")
_IGNORED = frozenset("fNTnqvVya")  # background, no command, verbosity
_KEYWORDS = {
    "p": "Port",
    "l": "User",
    "i": "IdentityFile",
    "J": "ProxyJump",
    "L": "LocalForward",
    "R": "RemoteForward",
    "D": "DynamicForward",
    "c": "Ciphers",
    "m": "MACs",
    "b": "BindAddress",
    "w": "Tunnel",
    "W": "-W",
}
_SWITCHES = {
    "C": ("Compression", "yes"),
    "g": ("GatewayPorts", "yes"),
    "4": ("AddressFamily", "inet"),
    "6": ("AddressFamily", "inet6"),
    "A": ("ForwardAgent", "yes"),
    "X": ("ForwardX11", "yes"),
    "Y": ("ForwardX11", "yes"),
    "K": ("GSSAPIAuthentication", "yes"),
    "t": ("RequestTTY", "yes"),
    "M": ("ControlMaster", "yes"),
}
_WRAPPERS = frozenset({"nohup", "exec", "setsid", "env"})
_SKIPPED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*|@[a-z]+|[0-9*/,-]+", re.DOTALL)  # NAME=value, @reboot, crontab times
_SHELL = re.compile(r"[0-9]*[<>].*|[&|;].*")  # redirections and operators
_EXEC_START = re.compile(r"^\s*ExecStart\s*=\s*[-@:+!]*")
_URL = re.compile(r"ssh://(?:(?P<user>[^@]+)@)?(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^@:/\[\]]+))(?::(?P<port>[0-9]+))?/?")
_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_PAIR = re.compile(r"([A-Za-z0-9]+)(?:\s*=\s*|\s+)(.*)", re.DOTALL)


class NotSshError(Exception):
    """The line is not an ssh command. The message says why."""


@dataclass(frozen=True, slots=True)
class Keyword:
    """One ssh_config keyword.

    name    in lower case
    label   the name as the user wrote it, for messages; without the value, which may contain a password
    """

    name: str
    value: str
    label: str


@dataclass(slots=True)
class SshCommand:
    """One ssh command line or Host block. `lost`: messages about parts that cannot be translated."""

    where: str
    host: str
    keywords: list[Keyword] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def shown(text: str) -> str:
    """Return a word for a message, `...` if it may contain a password or a token."""
    return "..." if may_hold_secret(text) else text


def keyword(name: str, value: str, label: str = "") -> Keyword:
    return Keyword(name.lower(), value, label or name)


def option(text: str) -> Keyword:
    """Parse `-o Name=value` or `Name value`. Raises NotSshError."""
    matched = _PAIR.fullmatch(text.strip())
    if matched is None:
        raise NotSshError("invalid -o option: expected NAME=VALUE")
    return keyword(matched[1], matched[2].strip('"'), f"-o {matched[1]}")


def destination(text: str) -> tuple[str, list[Keyword]]:
    """Parse `[user@]host` or `ssh://[user@]host[:port]` to the host and its keywords. Raises NotSshError."""
    user, _, host = text.rpartition("@")
    port = ""
    if text.startswith("ssh://"):
        matched = _URL.fullmatch(text)
        if matched is None:
            raise NotSshError("invalid destination: expected ssh://[user@]host[:port]")
        user, host, port = matched["user"] or "", matched["v6"] or matched["host"], matched["port"] or ""
    user, colon, _ = user.partition(":")
    password = [keyword("password", "", "a password before the host")] if colon else []
    return host, [keyword(name, value) for name, value in (("User", user), ("Port", port)) if value] + password


# --- command lines ----------------------------------------------------------------------------------------------


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Yield each command with its line number. Skips comments and empty lines; a backslash at the end joins lines."""
    partial, first = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        first = first if partial else number
        if line.endswith("\\"):
            partial += f"{line[:-1]} "
            continue
        whole, partial = partial + line, ""
        if whole.strip() and not whole.lstrip().startswith("#"):
            yield first, whole


def command_line(words: Sequence[str] | str, where: str) -> SshCommand:
    """Parse `ssh -L 5432:db:5432 user@bastion` or `autossh ...`, also inside a shell line. Raises NotSshError."""
    if isinstance(words, str):
        try:
            # Variables in tunnels.yaml have braces.
            words = shlex.split(_VARIABLE.sub(r"${\1}", _EXEC_START.sub("", words)), comments=True)
        except ValueError as error:
            raise NotSshError(f"cannot be parsed: {str(error).lower()}") from None
    command = SshCommand(where, "")
    program, rest = _program(words, command)
    extra = _AUTOSSH_TAKE_VALUE if program == "autossh" else frozenset()
    _Parser(command, extra).read(_until_shell(rest, command))
    if not command.host:
        raise NotSshError("no host found")
    return command


def _program(words: Sequence[str], command: SshCommand) -> tuple[str, Sequence[str]]:
    """Return the program and its arguments. Crontab times, assignments and `nohup` before it are skipped."""
    for index, word in enumerate(words):
        if PurePath(word).name in ("ssh", "autossh"):
            before = [one for one in words[:index] if one not in _WRAPPERS and not _SKIPPED.fullmatch(one)]
            if before:
                command.lost.append(f"{shown(before[0])}: words before {word} are ignored")
            return PurePath(word).name, words[index + 1 :]
    raise NotSshError("not an ssh or autossh command")


def _until_shell(words: Sequence[str], command: SshCommand) -> Sequence[str]:
    """Return the words before a redirection or a shell operator."""
    for index, word in enumerate(words):
        if _SHELL.fullmatch(word):
            after = words[index + 1 :]
            if after and word[0] in "&|;":
                operator = "".join(sign for sign in word[:2] if sign in "&|;")
                command.lost.append(f"{operator} {shown(after[0])}: words after the command are ignored")
            return words[:index]
    return words


class _Parser:
    """Parses arguments as ssh does: flags may be joined, a value may be attached, options may follow the host."""

    def __init__(self, command: SshCommand, extra: frozenset[str]) -> None:
        self._command = command
        self._extra = extra

    def read(self, words: Sequence[str]) -> None:
        left = deque(words)
        while left:
            word = left.popleft()
            if word == "--":
                continue
            if word.startswith("-") and len(word) > 1:
                self._options(word[1:], left)
            elif self._command.host:
                self._command.lost.append(f"{shown(word)}: tunnels run no commands on the server")
                return
            else:
                self._command.host, keywords = destination(word)
                self._command.keywords += keywords  # the first value on the line counts, as with options

    def _options(self, letters: str, left: deque[str]) -> None:
        for position, letter in enumerate(letters, start=1):
            if letter in _TAKE_VALUE or letter in self._extra:
                self._valued(letter, letters[position:] or (left.popleft() if left else ""))
                return
            if letter in _SWITCHES:
                name, value = _SWITCHES[letter]
                self._command.keywords.append(keyword(name, value, f"-{letter}"))
            elif letter not in _IGNORED:
                self._command.lost.append(f"-{letter}: no counterpart")

    def _valued(self, letter: str, value: str) -> None:
        label = f"-{letter} {shown(value)}"
        if letter in self._extra or letter in "EeSP":
            return  # monitoring ports, log files, escape characters and control sockets are not needed
        if letter == "o":
            self._command.keywords.append(option(value))
        elif letter == "F":
            self._command.lost.append(f"{label}: add --ssh-config {shown(value)}")
        elif letter in _KEYWORDS:
            self._command.keywords.append(keyword(_KEYWORDS[letter], value, label))
        else:
            self._command.lost.append(f"{label}: no counterpart")


# --- ssh_config -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """The keywords of one `Host` block. Keywords before the first block belong to `Host *`."""

    patterns: tuple[str, ...]
    keywords: tuple[Keyword, ...]


@dataclass(frozen=True, slots=True)
class SshConfig:
    """ssh_config files, in the order given. `lost`: messages about parts that are not supported."""

    blocks: tuple[Block, ...] = ()
    lost: tuple[str, ...] = ()

    def of(self, host: str) -> list[Keyword]:
        """Return all keywords that apply to a host, in order. For most keywords the first value counts."""
        return [one for block in self.blocks if _matches(block.patterns, host) for one in block.keywords]

    def hosts(self) -> list[str]:
        """Return each host that is named without wildcards."""
        named = (pattern for block in self.blocks for pattern in block.patterns)
        return list(dict.fromkeys(name for name in named if not re.search(r"[*?!]", name)))


def ssh_config(files: Iterable[tuple[str, str]]) -> SshConfig:
    """Parse files, given as pairs of name and text."""
    blocks: list[Block] = []
    lost: list[str] = []
    for name, text in files:
        patterns: tuple[str, ...] | None = ("*",)
        keywords: list[Keyword] = []
        for number, line in enumerate(text.splitlines(), start=1):
            matched = _PAIR.fullmatch(line.strip())
            if matched is None or line.lstrip().startswith("#"):
                continue
            word, value = matched[1].lower(), matched[2]
            if word in ("host", "match"):
                blocks.append(Block(patterns or (), tuple(keywords)))
                patterns = (
                    tuple(value.replace('"', " ").split()) if word == "host" else (("*",) if value == "all" else None)
                )
                keywords = []
                if patterns is None:
                    lost.append(f"{name}:{number}: Match {shown(value)}: only Host blocks are supported")
            elif word == "include":
                lost.append(f"{name}:{number}: Include {shown(value)}: add --ssh-config for it")
            elif patterns is not None:
                keywords.append(keyword(matched[1], value.strip('"')))
        blocks.append(Block(patterns or (), tuple(keywords)))
    return SshConfig(tuple(blocks), tuple(lost))


def _matches(patterns: Iterable[str], host: str) -> bool:
    matched = False
    for pattern in patterns:
        if pattern.startswith("!"):
            if fnmatchcase(host, pattern[1:]):
                return False
        else:
            matched = matched or fnmatchcase(host, pattern)
    return matched
