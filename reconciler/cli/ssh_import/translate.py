"""Translates an ssh command, with the settings that `ssh -G` prints for it, to a target and its tunnels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.cli.ssh_import.arguments import ArgumentsError, parse
from reconciler.cli.ssh_import.config_files import ConfigCopy, UnreadableConfigError, copy_of
from reconciler.cli.ssh_import.differences import add_differences
from reconciler.cli.ssh_import.forwards import SshForward, forwards_of
from reconciler.cli.ssh_import.found import FoundCommand
from reconciler.cli.ssh_import.login import Messages, SshLogin
from reconciler.cli.ssh_import.openssh import Fields, OpenSsh, Settings, SshRefusedError, shown
from reconciler.cli.ssh_import.route import NoRouteError, Query, Router
from reconciler.cli.ssh_import.server import address, algorithms, connecting, file_to_create, keepalive, trust
from reconciler.config.options import process_user


@dataclass(slots=True)
class Translation:
    """One translated command.

    host      the server as the user named it
    fields    of the target; empty if it cannot be translated
    forwards  those that ssh would open
    messages  about parts without a counterpart, and notes
    """

    where: str
    host: str = ""
    fields: Fields = field(default_factory=dict)
    forwards: list[SshForward] = field(default_factory=list)
    messages: Messages = field(default_factory=Messages)


@dataclass
class Translator:
    """Translates ssh commands.

    ssh        prints the settings of each server
    directory  for the copies of ssh_config files
    configs    the files to use where a command names none; empty: those that ssh uses
    environ    the environment
    commands   ProxyCommand and `Match exec` are permitted
    """

    ssh: OpenSsh
    directory: Path
    configs: Sequence[str]
    environ: Mapping[str, str]
    commands: bool = False
    _copies: dict[str, ConfigCopy] = field(default_factory=dict)

    def config(self, path: str = "") -> ConfigCopy:
        """Return the copy of an ssh_config; "" for the one to use by default. Raises UnreadableConfigError."""
        if path not in self._copies:
            directory = self.directory / str(len(self._copies))
            directory.mkdir()
            self._copies[path] = copy_of([path] if path else self.configs, directory, commands=self.commands)
        return self._copies[path]

    def lost(self) -> list[str]:
        """Return the messages about the ssh_config files that were used."""
        return list(dict.fromkeys(message for copy in self._copies.values() for message in copy.lost))

    def translate(self, found: FoundCommand) -> Translation:
        made = Translation(found.where)
        made.messages.notes += found.notes
        try:
            _Command(self, found, made).translate()
        except (ArgumentsError, UnreadableConfigError, SshRefusedError) as error:
            made.messages.lost.append(str(error))
        except NoRouteError as error:
            made.fields = {}
            made.messages.lost.append(f"{error}: the whole target is left out")
        return made


@dataclass(frozen=True, slots=True)
class _Command:
    """The translation of one command into `made`."""

    translator: Translator
    found: FoundCommand
    made: Translation

    def translate(self) -> None:
        made, messages = self.made, self.made.messages
        parsed = parse(self.found.arguments)
        query = Query(parsed.words, parsed.config, parsed.names_user, self.found.password)
        settings = self._ask(query)
        made.host = settings.given_host
        if parsed.stdio:
            messages.lost.append(
                f"-W {parsed.stdio} uses standard input and output: write -L PORT:{parsed.stdio} instead"
            )
            return
        if parsed.command:
            messages.lost.append(f"{shown(parsed.command)}: tunnels run no commands on the server")
        made.forwards = list(forwards_of(settings))
        if not made.forwards:
            messages.lost.append(_why_no_forward(settings))
            return
        add_differences(settings, messages, is_system_config_read=self._is_system_config_read(query))
        made.fields = self._server(settings, query, messages)
        if ":" in settings.first("user"):
            messages.notes.append("the user name contains `:`, and ssh takes no password from there")
        made.fields |= keepalive(settings)
        made.fields |= Router(self._ask, self._hop, self.translator.commands).fields(settings, parsed.config)

    def _ask(self, query: Query) -> Settings:
        config = self.translator.config(query.config)
        return self.translator.ssh.resolve(query.arguments, config, self.found.environment)

    def _hop(self, settings: Settings, query: Query) -> Fields:
        messages = Messages()
        add_differences(settings, messages, is_system_config_read=self._is_system_config_read(query))
        messages.notes.clear()  # no jump host has a session
        fields = self._server(settings, query, messages)
        where = f"jump host {settings.given_host}"
        self.made.messages.notes += [f"{where}: {message}" for message in messages.notes]
        self.made.messages.lost += [f"{where}: {message}" for message in messages.lost]
        return fields

    def _is_system_config_read(self, query: Query) -> bool:
        return not query.config and not self.translator.configs

    def _server(self, settings: Settings, query: Query, messages: Messages) -> Fields:
        """Return the fields that targets and jump hosts share."""
        defaults = self.translator.ssh.defaults
        user = settings.first("user")
        names_user = query.names_user or user != process_user() or user in self.translator.config(query.config).users
        given = self.found.environment
        login = SshLogin(settings, defaults, {**self.translator.environ, **given}, given, messages)
        offered, lost = algorithms(settings, defaults)
        messages.lost += lost
        trusted = trust(settings, defaults)
        if (missing := file_to_create(trusted)) != "":
            messages.notes.append(
                f"{missing} does not exist: create it (touch), as `accept-new` writes host keys to it"
            )
        return (
            address(settings, with_user=names_user)
            | login.fields(query.password)
            | trusted
            | connecting(settings)
            | offered
        )


def _why_no_forward(settings: Settings) -> str:
    if settings.is_on("clearallforwardings"):
        return "ClearAllForwardings removes every forward"
    return "nothing to forward: expected -L, -R or -D"
