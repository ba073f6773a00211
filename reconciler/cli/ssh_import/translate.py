"""Translates ssh commands and Host blocks to the fields of a target and its tunnels in tunnels.yaml.

Each ssh_config keyword has a field, needs none (the default is the same, or it is about sessions), or has no
counterpart.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.cli.ssh_import.ssh_options import Keyword, NotSshError, SshCommand, SshConfig, command_line, destination

Fields = dict[str, object]

_CUMULATIVE = frozenset({"identityfile", "certificatefile", "localforward", "remoteforward", "dynamicforward"})
_FORWARDS = {"localforward": "local", "remoteforward": "remote", "dynamicforward": "socks"}
_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")

# Keywords that need no field: the behaviour is the same, or they are about sessions and terminals.
_IGNORED = frozenset(
    re.findall(
        r"\w+",
        """addkeystoagent batchmode canonicaldomains canonicalizefallbacklocal canonicalizehostname canonicalizemaxdots
    challengeresponseauthentication checkhostip connectionattempts controlmaster controlpath controlpersist
    enableescapecommandline escapechar exitonforwardfailure fingerprinthash forkafterauthentication hashknownhosts
    identitiesonly ignoreunknown ipqos kbdinteractiveauthentication loglevel logverbose numberofpasswordprompts
    obscurekeystroketiming passwordauthentication permitlocalcommand permitremoteopen preferredauthentications
    protocol pubkeyauthentication rekeylimit requesttty sendenv sessiontype setenv stdinnull streamlocalbindunlink
    syslogfacility tag tcpkeepalive updatehostkeys useroaming verifyhostkeydns visualhostkey warnweakcrypto
    forwardx11timeout forwardx11trusted""",
    )
)
_ALGORITHMS = {"ciphers": "cipher", "kexalgorithms": "kex", "macs": "mac", "hostkeyalgorithms": "hostKey"}


class UnreachableError(Exception):
    """The route to the server (ProxyJump, ProxyCommand) cannot be translated."""


@dataclass(slots=True)
class Translation:
    """One translated target.

    fields    of the target; empty if it cannot be translated
    forwards  (kind, short form, label)
    lost      messages about parts that cannot be translated
    """

    where: str
    host: str
    fields: Fields
    forwards: list[tuple[str, str, str]]
    lost: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Translator:
    """Translates ssh commands. `config` resolves host names. `commands`: translate ProxyCommand too."""

    config: SshConfig
    environ: Mapping[str, str]
    commands: bool = False

    def translate(self, command: SshCommand) -> Translation:
        own = [*command.keywords, *self.config.of(command.host)]
        lost = list(command.lost)
        fields = self._server(command.host, own, lost)
        fields |= _settings(own, lost)
        try:
            fields |= self._route(own, lost, ())
        except UnreachableError as error:  # a direct connection could reach another server
            return Translation(command.where, command.host, {}, [], [*lost, f"{error}: the whole target is left out"])
        any_host = next((one.value for one in own if one.name == "gatewayports"), "no") == "yes"
        forwards = [_forward(one, any_host) for one in _effective(own) if one.name in _FORWARDS]
        return Translation(command.where, command.host, fields, forwards, lost)

    def _server(self, host: str, own: list[Keyword], lost: list[str]) -> Fields:
        """Return the address and login fields, which targets and jump hosts share."""
        first = _first(own)
        made: Fields = {"host": first.get("hostname", host).replace("%h", host).replace("%%", "%")}
        if "port" in first and first["port"] != "22":
            made["port"] = int(first["port"]) if first["port"].isdigit() else first["port"]
        if "user" in first:
            made["user"] = first["user"]
        return made | self._login(own, first, lost) | _trust(first)

    def _login(self, own: list[Keyword], first: Mapping[str, str], lost: list[str]) -> Fields:
        made: Fields = {}
        keys = [self._path(one.value, lost) for one in own if one.name == "identityfile" and one.value != "none"]
        certificates = [self._path(one.value, lost) for one in own if one.name == "certificatefile"]
        agent = first.get("identityagent", "SSH_AUTH_SOCK" if not keys else "none")
        if not keys:
            keys = [f"~/.ssh/{name}" for name in _DEFAULT_KEYS if self._is_there(f"~/.ssh/{name}")]
        if keys:
            made["privateKey"] = keys[0] if len(keys) == 1 else keys
            found = [f"{key}-cert.pub" for key in keys if self._is_there(f"{key}-cert.pub")]
            if certificates or found:
                made["certificate"] = (certificates or found)[0]
        if agent != "none" and (self.environ.get("SSH_AUTH_SOCK") or not keys or agent != "SSH_AUTH_SOCK"):
            made["agent"] = True if agent == "SSH_AUTH_SOCK" else self._path(agent, lost)
        lost += [f"{path}: only one certificate is supported" for path in certificates[1:]]
        return made

    def _path(self, path: str, lost: list[str]) -> str:
        """Make a path absolute unless it is under the home directory, because tunnels.yaml may be in any directory."""
        path = re.sub(r"%d(?=/)", "~", path).replace("%%", "%")
        if re.search(r"%[a-zA-Z]", path):
            lost.append(f"{path}: % tokens in paths are not supported")
        return path if path.startswith(("~", "$")) else str(Path(path).absolute())

    def _is_there(self, path: str) -> bool:
        home = self.environ.get("HOME", "/")
        return os.path.exists(re.sub(r"^~(?=/)", lambda _: home, path))  # noqa: PTH110 - Path.exists raises for a long name

    # --- the route ---------------------------------------------------------------------------------------------

    def _route(self, own: list[Keyword], lost: list[str], trail: tuple[str, ...]) -> Fields:
        first = _first(own)
        jump, command = first.get("proxyjump", "none"), first.get("proxycommand", "none")
        if jump == "none" and command != "none":
            jump = _jump_in(command)
            if not jump:
                return {"proxyCommand": self._argv(command)}
        hops = self._hops(jump, lost, trail) if jump != "none" else []
        return {"jumpHosts": hops} if len(hops) > 1 else ({"jumpHost": hops[0]} if hops else {})

    def _hops(self, jumps: str, lost: list[str], trail: tuple[str, ...]) -> list[Fields]:
        made: list[Fields] = []
        for text in map(str.strip, jumps.split(",")):
            try:
                host, keywords = destination(text if text.startswith("ssh://") else f"ssh://{text}")
            except NotSshError as error:
                raise UnreachableError(f"ProxyJump {error}") from None
            own = [*keywords, *self.config.of(host)]
            if host in trail:
                raise UnreachableError(f"ProxyJump {host} is circular")
            if not made:  # as in ssh, only the jump hosts of the first hop count
                before = self._route(own, lost, (*trail, host))
                if "proxyCommand" in before:
                    raise UnreachableError(
                        f"ProxyJump {host} has a ProxyCommand, which is supported only for the target"
                    )
                one, several = before.get("jumpHost"), before.get("jumpHosts")
                made += several if isinstance(several, list) else ([one] if isinstance(one, dict) else [])
            made.append(self._server(host, own, lost))
        return made

    def _argv(self, command: str) -> list[str]:
        program = next(iter(command.split()), "")  # without its arguments, which may contain a password
        if re.search(r"[|;&<>$`'\"\\]", command):
            raise UnreachableError(f"ProxyCommand {program} needs a shell, which is not supported")
        if not self.commands:
            raise UnreachableError(f"ProxyCommand {program} runs a program: allow it with --allow-commands")
        return command.split()


def _jump_in(command: str) -> str:
    """Return the jump host of `ssh -W %h:%p user@jump` in the form of ProxyJump, "" for any other command."""
    try:
        parsed = command_line(command, "")
    except NotSshError:
        return ""
    first = _first(parsed.keywords)
    if parsed.lost or not first.keys() <= {"-w", "user", "port"} or first.get("-w") not in ("%h:%p", "[%h]:%p"):
        return ""
    user, port = first.get("user", ""), first.get("port", "")
    return f"{user}{'@' if user else ''}{parsed.host}{':' if port else ''}{port}"


def _first(own: Iterable[Keyword]) -> dict[str, str]:
    """Return the first value of each keyword, which counts in ssh."""
    made: dict[str, str] = {}
    for one in own:
        made.setdefault(one.name, one.value)
    return made


def _effective(own: Iterable[Keyword]) -> list[Keyword]:
    """Return the first of each keyword, and every distinct value of cumulative keywords."""
    seen: dict[object, Keyword] = {}
    for one in own:
        seen.setdefault((one.name, one.value) if one.name in _CUMULATIVE else one.name, one)
    return list(seen.values())


# --- keyword by keyword -----------------------------------------------------------------------------------------


def _trust(first: Mapping[str, str]) -> Fields:
    made: Fields = {}
    checking = first.get("stricthostkeychecking", "ask").lower()
    if checking in ("no", "off"):
        made["strictHostKeyChecking"] = False
    elif checking == "accept-new":
        made["strictHostKeyChecking"] = "accept-new"
    files = [path for path in first.get("userknownhostsfile", "").split() if path not in ("/dev/null", "none")]
    if files:
        made["knownHosts"] = files[0] if len(files) == 1 else files
    if "hostkeyalias" in first:
        made["hostKeyAlias"] = first["hostkeyalias"]
    return made


def _seconds(value: str) -> str:
    return f"{value}s" if value.isdigit() else value


def _whole(value: str) -> object:
    return int(value) if value.isdigit() else value


_MAPPED: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "serveraliveinterval": ("keepaliveInterval", _seconds),
    "serveralivecountmax": ("keepaliveCountMax", _whole),
    "connecttimeout": ("connectTimeout", _seconds),
    "compression": ("compress", lambda value: value == "yes"),
}
_ELSEWHERE = frozenset(
    {"hostname", "port", "user", "identityfile", "certificatefile", "identityagent", "proxyjump", "proxycommand"}
    | {"stricthostkeychecking", "userknownhostsfile", "hostkeyalias", "gatewayports"}
    | _FORWARDS.keys()
)


def _settings(own: Iterable[Keyword], lost: list[str]) -> Fields:
    """Translate the other keywords. One without a counterpart goes to `lost`, unless its value is no, none or any."""
    made: Fields = {}
    algorithms: Fields = {}
    for one in _effective(own):
        if one.name in _ELSEWHERE or one.name in _IGNORED:
            continue
        if one.name in _MAPPED:
            name, convert = _MAPPED[one.name]
            made[name] = convert(one.value)
        elif one.name in _ALGORITHMS and one.value[:1] not in ("+", "-", "^"):
            algorithms[_ALGORITHMS[one.name]] = one.value.split(",")
        elif one.value.lower() not in ("no", "none", "any"):
            lost.append(f"{one.label}: no counterpart")
    return made | ({"algorithms": algorithms} if algorithms else {})


def _forward(one: Keyword, any_host: bool) -> tuple[str, str, str]:
    """Return (kind, short form, label). ssh_config separates the two ends by a space, the command line by a colon."""
    kind = _FORWARDS[one.name]
    text = ":".join(one.value.split())
    if any_host and kind != "remote" and re.fullmatch(r"[0-9]+(:(\[[^\]]*\]|[^:\[\]]+):[0-9]+)?", text):
        text = f"*:{text}"  # -g
    return kind, text, one.label
