"""ssh's own languages -> what was asked of ssh: command lines, `-o` options and ssh_config files.

Everything becomes keywords of ssh_config(5), in their order of precedence; what they mean for us is `carry`'s to say.
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

_TAKE_VALUE = frozenset("BbcDEeFIiJLlmOoPpQRSWw")  # ssh(1)
_OF_AUTOSSH = frozenset("M")
_SILENT = frozenset("fNTnqvVya")  # running in the background, no command, how much is said
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
_PASSED_OVER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*|@[a-z]+|[0-9*/,-]+", re.DOTALL)
_SHELL = re.compile(r"[0-9]*[<>].*|[&|;].*")
_UNIT_FILE = re.compile(r"^\s*ExecStart\s*=\s*[-@:+!]*")
_URL = re.compile(r"ssh://(?:(?P<user>[^@]+)@)?(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^@:/\[\]]+))(?::(?P<port>[0-9]+))?/?")
_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
_PAIR = re.compile(r"([A-Za-z0-9]+)(?:\s*=\s*|\s+)(.*)", re.DOTALL)


class NotSshError(Exception):
    """The line is no ssh command; the text says why."""


@dataclass(frozen=True, slots=True)
class Keyword:
    """One ssh_config keyword, in small letters, with its value; `said`: its name as the user wrote it.

    Its value is not part of it: it may be a program with a password among its arguments.
    """

    name: str
    value: str
    said: str


@dataclass(slots=True)
class Asked:
    """What one command line, or one Host block, asks of ssh. `lost`: what cannot be carried over, for people."""

    where: str
    host: str
    keywords: list[Keyword] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def shown(text: str) -> str:
    """A word of the user's for a message, unless it may hold a password or a token."""
    return "..." if may_hold_secret(text) else text


def keyword(name: str, value: str, said: str = "") -> Keyword:
    return Keyword(name.lower(), value, said or name)


def option(text: str) -> Keyword:
    """`-o Name=value` or `Name value`. Raises NotSshError."""
    matched = _PAIR.fullmatch(text.strip())
    if matched is None:
        raise NotSshError("-o with something that is no option of ssh: expected NAME=VALUE")
    return keyword(matched[1], matched[2].strip('"'), f"-o {matched[1]}")


def destination(text: str) -> tuple[str, list[Keyword]]:
    """`[user@]host` or `ssh://[user@]host[:port]`: the host, and what else it says. Raises NotSshError."""
    user, _, host = text.rpartition("@")
    port = ""
    if text.startswith("ssh://"):
        matched = _URL.fullmatch(text)
        if matched is None:
            raise NotSshError("this is no ssh://[user@]host[:port]")
        user, host, port = matched["user"] or "", matched["v6"] or matched["host"], matched["port"] or ""
    user, colon, _ = user.partition(":")
    password = [keyword("password", "", "a password before the host")] if colon else []
    return host, [keyword(name, said) for name, said in (("User", user), ("Port", port)) if said] + password


# --- command lines ----------------------------------------------------------------------------------------------


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    """Each command with its line number: comments and empty lines left out, a backslash at the end joins."""
    kept, begun = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        begun = begun if kept else number
        if line.endswith("\\"):
            kept += f"{line[:-1]} "
            continue
        whole, kept = kept + line, ""
        if whole.strip() and not whole.lstrip().startswith("#"):
            yield begun, whole


def command_line(words: Sequence[str] | str, where: str) -> Asked:
    """`ssh -L 5432:db:5432 user@bastion`, `autossh …`, with what stands before and after. Raises NotSshError."""
    if isinstance(words, str):
        try:
            # In tunnels.yaml a variable has braces.
            words = shlex.split(_VARIABLE.sub(r"${\1}", _UNIT_FILE.sub("", words)), comments=True)
        except ValueError as error:
            raise NotSshError(f"not understood: {str(error).lower()}") from None
    asked = Asked(where, "")
    program, rest = _program(words, asked)
    _Parser(asked, _OF_AUTOSSH if program == "autossh" else frozenset()).read(_until_shell(rest, asked))
    if not asked.host:
        raise NotSshError("no host is named in it")
    return asked


def _program(words: Sequence[str], asked: Asked) -> tuple[str, Sequence[str]]:
    """The program and its arguments; a crontab's times, assignments and nohup before it are passed over."""
    for index, word in enumerate(words):
        if PurePath(word).name in ("ssh", "autossh"):
            before = [one for one in words[:index] if one not in _WRAPPERS and not _PASSED_OVER.fullmatch(one)]
            if before:
                asked.lost.append(f"{shown(before[0])}: what stands before {word}")
            return PurePath(word).name, words[index + 1 :]
    raise NotSshError("no ssh or autossh command")


def _until_shell(words: Sequence[str], asked: Asked) -> Sequence[str]:
    for index, word in enumerate(words):
        if _SHELL.fullmatch(word):
            after = words[index + 1 :]
            if after and word[0] in "&|;":
                operator = "".join(sign for sign in word[:2] if sign in "&|;")
                asked.lost.append(f"{operator} {shown(after[0])}: what follows the command")
            return words[:index]
    return words


class _Parser:
    """ssh's getopt: flags may be joined, a value may be attached, options may follow the host."""

    def __init__(self, asked: Asked, extra: frozenset[str]) -> None:
        self._asked = asked
        self._extra = extra

    def read(self, words: Sequence[str]) -> None:
        left = deque(words)
        while left:
            word = left.popleft()
            if word == "--":
                continue
            if word.startswith("-") and len(word) > 1:
                self._options(word[1:], left)
            elif self._asked.host:
                self._asked.lost.append(f"{shown(word)}: a tunnel runs no command on the server")
                return
            else:
                self._asked.host, said = destination(word)
                self._asked.keywords += said  # as with options, the first word on the line counts

    def _options(self, letters: str, left: deque[str]) -> None:
        for position, letter in enumerate(letters, start=1):
            if letter in _TAKE_VALUE or letter in self._extra:
                self._valued(letter, letters[position:] or (left.popleft() if left else ""))
                return
            if letter in _SWITCHES:
                name, value = _SWITCHES[letter]
                self._asked.keywords.append(keyword(name, value, f"-{letter}"))
            elif letter not in _SILENT:
                self._asked.lost.append(f"-{letter}: no counterpart")

    def _valued(self, letter: str, value: str) -> None:
        said = f"-{letter} {shown(value)}"
        if letter in self._extra or letter in "EeSP":
            return  # monitoring ports, log files, escape characters, control sockets: nothing of the kind is needed
        if letter == "o":
            self._asked.keywords.append(option(value))
        elif letter == "F":
            self._asked.lost.append(f"{said}: add --ssh-config {shown(value)}")
        elif letter in _KEYWORDS:
            self._asked.keywords.append(keyword(_KEYWORDS[letter], value, said))
        else:
            self._asked.lost.append(f"{said}: no counterpart")


# --- ssh_config -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """The keywords under one `Host`; those before the first one are under `Host *`."""

    patterns: tuple[str, ...]
    keywords: tuple[Keyword, ...]


@dataclass(frozen=True, slots=True)
class SshConfig:
    """ssh_config files, read in the order given. `lost`: what is not understood."""

    blocks: tuple[Block, ...] = ()
    lost: tuple[str, ...] = ()

    def of(self, host: str) -> list[Keyword]:
        """Everything that holds for a host, in order; of most keywords the first one counts."""
        return [one for block in self.blocks if _matches(block.patterns, host) for one in block.keywords]

    def hosts(self) -> list[str]:
        """Each host that is named outright."""
        named = (pattern for block in self.blocks for pattern in block.patterns)
        return list(dict.fromkeys(name for name in named if not re.search(r"[*?!]", name)))


def ssh_config(files: Iterable[tuple[str, str]]) -> SshConfig:
    """From the names and texts of files."""
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
                    lost.append(f"{name}:{number}: Match {shown(value)}: only Host blocks are understood")
            elif word == "include":
                lost.append(f"{name}:{number}: Include {shown(value)}: add --ssh-config for it")
            elif patterns is not None:
                keywords.append(keyword(matched[1], value.strip('"')))
        blocks.append(Block(patterns or (), tuple(keywords)))
    return SshConfig(tuple(blocks), tuple(lost))


def _matches(patterns: Iterable[str], host: str) -> bool:
    found = False
    for pattern in patterns:
        if pattern.startswith("!"):
            if fnmatchcase(host, pattern[1:]):
                return False
        else:
            found = found or fnmatchcase(host, pattern)
    return found
