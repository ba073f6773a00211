"""Translates ProxyJump and ProxyCommand to the jump hosts of a target, or to its `proxyCommand`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath

from reconciler.cli.ssh_import.arguments import ArgumentsError, parse
from reconciler.cli.ssh_import.found import PasswordSource
from reconciler.cli.ssh_import.openssh import Fields, Settings, SshRefusedError
from reconciler.cli.ssh_import.server import source_address
from reconciler.cli.ssh_import.sources.find import find_commands
from reconciler.cli.ssh_import.tokens import expanded, literal

_HOPS = 16
_SHELL = re.compile(r"[|;&<>()$`'\"\\*?\[\]#~\n]|^\s*\w+=")
_TOKENS_OF_THE_FILE = "hpr%"
_STDIO = ("%h:%p", "[%h]:%p")
_OPERATORS = re.compile(r"[|;&<>`$()]")
_REDIRECTION = re.compile(r"2> ?(?:/dev/null|&1)")  # of ssh's messages


class NoRouteError(Exception):
    """The route to the server cannot be translated.

    Nothing of the target is kept, because a direct connection could reach another server.
    """


@dataclass(frozen=True, slots=True)
class Query:
    """The arguments with which `ssh -G` prints the settings of one server.

    arguments   for ssh
    config      the ssh_config that they name; "" for none
    names_user  the arguments name the user
    password    the source of the password
    """

    arguments: tuple[str, ...]
    config: str
    names_user: bool
    password: PasswordSource | None = None


@dataclass(frozen=True, slots=True)
class Router:
    """Makes the route fields of a target.

    resolve   gets the settings of a jump host from ssh
    server    makes the fields of a jump host
    commands  ProxyCommand is permitted
    """

    resolve: Callable[[Query], Settings]
    server: Callable[[Settings, Query], Fields]
    commands: bool

    def fields(self, settings: Settings, config: str) -> Fields:
        """Return the route. Only the first server on the way has a `proxyCommand` or a source address."""
        hops, command = self._route(settings, config, ())
        if not hops:
            return {"proxyCommand": command} if command else source_address(settings)
        if command:
            hops[0] |= {"proxyCommand": command}
        return {"jumpHosts": hops} if len(hops) > 1 else {"jumpHost": hops[0]}

    def _route(self, settings: Settings, config: str, trail: tuple[str, ...]) -> tuple[list[Fields], list[str]]:
        """Return the hops before a server, outermost first, and the command that connects to the first of them."""
        if settings.is_on("proxyusefdpass"):
            raise NoRouteError("ProxyUseFdpass is not supported")
        jump, command = settings.first("proxyjump", "none"), settings.first("proxycommand", "none")
        if jump != "none":
            return self._through(_jump(expanded(jump, settings), config), trail)
        if command == "none":
            return [], []
        query = _jump_in(command, settings)
        return self._through(query, trail) if query is not None else ([], self._argv(command, settings))

    def _through(self, query: Query, trail: tuple[str, ...]) -> tuple[list[Fields], list[str]]:
        name = " ".join(query.arguments)
        if name in trail or len(trail) == _HOPS:
            raise NoRouteError(f"the jump host {query.arguments[-1]} is reached through itself")
        try:
            settings = self.resolve(query)
        except SshRefusedError as error:
            raise NoRouteError(f"the jump host {query.arguments[-1]}: {error}") from None
        before, command = self._route(settings, query.config, (*trail, name))
        own = self.server(settings, query) | ({} if before or command else source_address(settings))
        return [*before, own], command

    def _argv(self, command: str, settings: Settings) -> list[str]:
        program = PurePath(next(iter(command.split()), "")).name  # without its arguments: one may be a password
        if not self.commands:
            raise NoRouteError(f"ProxyCommand {program} runs a program: allow it with --allow-commands")
        text = expanded(command, settings, keep=_TOKENS_OF_THE_FILE)
        bare = re.sub(r"%[hpr%]", "", text)
        argv = ["sh", "-c", f"exec {text}"] if _SHELL.search(bare) else text.split()
        return [literal(word) for word in argv]


def _jump(jumps: str, config: str) -> Query:
    """Return what ssh itself would run for the last jump host of a list. That ssh jumps through the others."""
    before, _, last = jumps.rpartition(",")
    text = last.strip().removeprefix("ssh://").rstrip("/")
    user, at, server = text.rpartition("@")
    matched = re.fullmatch(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[^:]+))?", server)
    if matched is None:
        raise NoRouteError(f"invalid jump host {text}" if ":" not in user else "invalid jump host")
    words = [*(("-l", user) if at else ()), *(("-p", matched["port"]) if matched["port"] else ())]
    words += ["-J", before] if before else []
    return Query((*words, matched["v6"] or matched["host"]), config, bool(at))


def _jump_in(command: str, settings: Settings) -> Query | None:
    """Return the jump host of `ssh -W %h:%p ...`; None for any other command."""
    found, unread = find_commands(command, "ProxyCommand")
    if any(one.password is not None and one.password.kind == "literal" for one in found):
        raise NoRouteError("ProxyCommand contains a password: move it to a file (sshpass -f FILE)")
    if len(found) != 1 or unread or _OPERATORS.search(_REDIRECTION.sub("", command)):
        return None
    try:
        parsed = parse(found[0].arguments)
    except ArgumentsError:
        return None
    server = f"{settings.first('hostname')}:{settings.first('port')}"
    if parsed.stdio not in (*_STDIO, server) or parsed.command:
        return None
    arguments = tuple(expanded(word, settings) for word in parsed.words)
    return Query(arguments, expanded(parsed.config, settings), parsed.names_user, found[0].password)
