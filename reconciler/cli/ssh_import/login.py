"""Translates how ssh would log in: its keys, certificates, agent and password."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.cli.ssh_import.config_files import home_of_ssh
from reconciler.cli.ssh_import.found import PasswordSource
from reconciler.cli.ssh_import.key_files import ENCRYPTED, KeyFile, is_socket, key_file
from reconciler.cli.ssh_import.openssh import Fields, Settings
from reconciler.cli.ssh_import.tokens import expanded, replaced, with_variables

_AGENT_VARIABLE = "SSH_AUTH_SOCK"


@dataclass(slots=True)
class Messages:
    """Messages about a translation. `lost` makes the command fail, `notes` do not."""

    notes: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SshLogin:
    """Makes the login fields of one server.

    settings  those of ssh for the server
    defaults  those of ssh without any configuration
    environ   the environment of the command
    given     the variables that the text sets for it; tunnels.yaml cannot know them
    """

    settings: Settings
    defaults: Settings
    environ: Mapping[str, str]
    given: Mapping[str, str]
    messages: Messages

    def fields(self, password: PasswordSource | None) -> Fields:
        made: Fields = {}
        if self._allows("publickey", "pubkeyauthentication"):
            made |= self._keys()
        if password is not None and self._allows("password", "passwordauthentication", "kbdinteractiveauthentication"):
            made |= self._password(password)
        if not made:
            self.messages.notes.append("no way to log in: add `privateKey`, `agent` or `password`")
        return made

    def _allows(self, method: str, *switches: str) -> bool:
        preferred = self.settings.first("preferredauthentications")
        is_preferred = not preferred or method in preferred or (method == "password" and "keyboard" in preferred)
        return is_preferred and any(self.settings.first(name, "yes") not in ("no", "false") for name in switches)

    def _password(self, source: PasswordSource) -> Fields:
        if source.kind == "literal":
            self.messages.lost.append("the password is in the text: move it to a file and add `password: {file: ...}`")
            return {}
        return {"password": {source.kind: with_variables(source.name)}}

    # --- keys --------------------------------------------------------------------------------------------------

    def _keys(self) -> Fields:
        agent = self._agent()
        listed = self.settings.all("identityfile")
        is_default = listed == self.defaults.all("identityfile")
        files = [key_file(self._path(path)) for path in listed if path != "none"]
        chosen = self._usable_defaults(files) if is_default else self._usable(files)
        made: Fields = {}
        certificate, certified = self._certificate([path for path in chosen if not _is_public(path)])
        if certificate != f"{certified}-cert.pub":  # tunnels.yaml uses it with the first key
            chosen.sort(key=lambda path: path != certified)
        if chosen:
            paths = [with_variables(path) for path in chosen]
            made["privateKey"] = paths[0] if len(paths) == 1 else paths
        if certificate:
            made["certificate"] = with_variables(certificate)
        if agent is not None and (not self.settings.is_on("identitiesonly") or any(map(_is_public, chosen))):
            made["agent"] = agent
        elif not chosen:
            made["agent"] = agent or True
        return made

    def _agent(self) -> object:
        """Return the value of `agent`; None if there is none."""
        socket = self.settings.first("identityagent", _AGENT_VARIABLE)
        if socket == "none":
            return None
        if socket == _AGENT_VARIABLE:
            return True if self._has_agent() else None
        if re.fullmatch(r"\$[A-Za-z_][A-Za-z0-9_]*", socket):
            socket = f"${{{socket[1:]}}}"
        return with_variables(self._path(socket))

    def _has_agent(self) -> bool:
        """Return True if an agent is there now."""
        socket = self.settings.first("identityagent", _AGENT_VARIABLE)
        if socket == "none":
            return False
        return is_socket(self.environ.get(_AGENT_VARIABLE, "") if socket == _AGENT_VARIABLE else self._path(socket))

    def _usable_defaults(self, files: Iterable[KeyFile]) -> list[str]:
        """Return the keys that ssh would find by itself and use without a prompt."""
        there = [one for one in files if one.is_there]
        usable = [one.path for one in there if not one.trouble]
        if not usable and there and not self._has_agent():
            return self._kept([(there[0].path, there[0].trouble)])
        return usable

    def _usable(self, files: Iterable[KeyFile]) -> list[str]:
        """Return the configured keys. Those that ssh would skip are left out if another way to log in remains."""
        usable: list[str] = []
        skipped: list[tuple[str, str]] = []
        by_agent = self._has_agent()
        for one in files:
            if _is_public(one.path) or not one.trouble or "${" in one.path:
                usable.append(one.path)
            elif by_agent and self.settings.is_on("identitiesonly") and key_file(f"{one.path}.pub").is_there:
                usable.append(f"{one.path}.pub")
            else:
                skipped.append((one.path, one.trouble))
        if usable or by_agent:
            self.messages.notes += [f"{path} {why} and is left out" for path, why in skipped]
            return usable
        return self._kept(skipped)

    def _kept(self, troubled: Sequence[tuple[str, str]]) -> list[str]:
        """Return keys that cannot be used as they are, because there is no other way to log in."""
        for path, trouble in troubled:
            if trouble == ENCRYPTED:
                self.messages.notes.append(f"{path} {trouble}: add `passphrase: {{file: ...}}`")
        return [path for path, _ in troubled]

    def _certificate(self, keys: list[str]) -> tuple[str, str]:
        """Return a certificate and its key; both "" if there is none. ssh also looks beside each key."""
        explicit = [self._path(path) for path in self.settings.all("certificatefile") if path != "none"]
        found = [(path, key) for path in explicit for key in keys if self._belongs(path, key, len(keys))]
        found += [(f"{key}-cert.pub", key) for key in keys if key_file(f"{key}-cert.pub").is_there]
        best = found[0] if found else ("", "")
        for path in explicit:
            if not best[0]:
                why = "no private key is here for this certificate: add `privateKey`, or add it to the agent (ssh-add)"
                self.messages.lost.append(f"{path}: {why}")
            elif path != best[0]:
                self.messages.lost.append(f"{path}: only one certificate is supported")
        return best

    @staticmethod
    def _belongs(certificate: str, key: str, keys: int) -> bool:
        """Return True if the certificate is for the key, or may be if their content cannot be compared."""
        file = key_file(certificate)
        public = key_file(key).public() or key_file(f"{key}.pub").public()
        if file.is_there and public:
            return file.certifies(public)
        return keys == 1 or certificate == f"{key}-cert.pub"

    # --- paths -------------------------------------------------------------------------------------------------

    def _path(self, path: str) -> str:
        return absolute(replaced(re.sub(r"^%d(?=/)", "~", path), self.given), self.settings)


def absolute(path: str, settings: Settings) -> str:
    """Replace tokens and make a path absolute unless it is under the home directory: tunnels.yaml may be anywhere."""
    path = expanded(path, settings)
    if re.match(r"~[^/]", path):
        path = os.path.expanduser(path)  # noqa: PTH111 - Path raises for an unknown user
    if path.startswith(("~", "${")):
        return path
    home = home_of_ssh()
    path = str(Path(path).absolute())
    return f"~{path.removeprefix(home)}" if path.startswith(f"{home}/") and home == os.environ.get("HOME") else path


def _is_public(path: str) -> bool:
    return path.endswith(".pub")
