"""The image jnovack/autossh: its environment variables describe one tunnel.

Names of its first versions (`SSH_HOSTNAME`, `SSH_TUNNEL_REMOTE`) are still in use. The image is described at
https://github.com/jnovack/autossh.
"""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.cli.ssh_import.sources.values import Argument, Launch, Unknown, joined

_OLD_NAMES = {
    "SSH_REMOTE_USER": "SSH_HOSTUSER",
    "SSH_REMOTE_HOST": "SSH_HOSTNAME",
    "SSH_REMOTE_PORT": "SSH_HOSTPORT",
    "SSH_TUNNEL_PORT": "SSH_TUNNEL_REMOTE",
    "SSH_TARGET_HOST": "SSH_TUNNEL_HOST",
    "SSH_TARGET_PORT": "SSH_TUNNEL_LOCAL",
    "SSH_SERVER_ALIVE_INTERVAL": "SERVER_ALIVE_INTERVAL",
    "SSH_SERVER_ALIVE_COUNT_MAX": "SERVER_ALIVE_COUNT_MAX",
    "SSH_KNOWN_HOSTS_FILE": "SSH_KNOWN_HOSTS",
}
VARIABLES = (*_OLD_NAMES, *_OLD_NAMES.values(), "SSH_BIND_IP", "SSH_MODE", "SSH_OPTIONS", "SSH_KEY_FILE")
_MARKS = frozenset({"SSH_REMOTE_HOST", "SSH_TUNNEL_PORT", "SSH_TARGET_PORT", "SSH_TARGET_HOST"})
_OLD_MARKS = frozenset(_OLD_NAMES[name] for name in _MARKS)


def is_autossh_image(image: str, environment: Mapping[str, Argument]) -> bool:
    """Return True if the environment has the variables of the image, or the image is known by its name."""
    known = any(len(marks & environment.keys()) > 1 for marks in (_MARKS, _OLD_MARKS))
    return known or "jnovack/autossh" in image


def from_environment(
    where: str, environment: Mapping[str, Argument], mounts: Mapping[str, str], notes: tuple[str, ...] = ()
) -> Launch:
    """Return the command that the image starts."""
    settings = _Settings(environment)
    known_hosts = settings.text("SSH_KNOWN_HOSTS_FILE", "/known_hosts")
    has_known_hosts = known_hosts.text in mounts or "SSH_KNOWN_HOSTS_FILE" in settings
    is_old = not environment.keys().isdisjoint(_OLD_MARKS) and environment.keys().isdisjoint(_MARKS)
    bind = settings.text("SSH_BIND_IP", "" if is_old else "127.0.0.1")
    spec = [bind] if bind.text else []
    spec += [
        settings.required("SSH_TUNNEL_PORT", "the image takes a random port"),
        settings.text("SSH_TARGET_HOST", "localhost"),
        settings.text("SSH_TARGET_PORT", "22"),
    ]
    key = settings.text("SSH_KEY_FILE", "/id_rsa")
    words = [Argument("autossh"), *_words("-M 0 -N -o ExitOnForwardFailure=yes -i"), _outside(key, mounts)]
    words += [Argument("-o"), Argument(f"StrictHostKeyChecking={'yes' if has_known_hosts else 'no'}")]
    if has_known_hosts:
        words += [Argument("-o"), joined([Argument("UserKnownHostsFile="), _outside(known_hosts, mounts)])]
    interval, count = settings.text("SSH_SERVER_ALIVE_INTERVAL", "10"), settings.text("SSH_SERVER_ALIVE_COUNT_MAX", "3")
    words += [Argument("-o"), joined([Argument("ServerAliveInterval="), interval])]
    words += [Argument("-o"), joined([Argument("ServerAliveCountMax="), count])]
    words += [settings.text("SSH_MODE", "-R"), joined(spec, ":")]
    words += [Argument("-p"), settings.text("SSH_REMOTE_PORT", "22")]
    host = settings.required("SSH_REMOTE_HOST", "it names the server")
    words.append(joined([settings.text("SSH_REMOTE_USER", "root"), host], "@"))
    options = settings.text("SSH_OPTIONS", "")
    words += [options] if options.unknown is not None else _words(options.text)
    return Launch(where, tuple(words), environment, notes)


class _Settings:
    """Variables by their present names. An empty one has its default, as in the image."""

    def __init__(self, environment: Mapping[str, Argument]) -> None:
        self._environment = environment

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def text(self, name: str, default: str) -> Argument:
        return self._find(name) or Argument(default)

    def required(self, name: str, why: str) -> Argument:
        reason = f"`{name}` is not set, {why}: set it in the environment"
        return self._find(name) or Argument(f"${name}", Unknown(reason, name))

    def _find(self, name: str) -> Argument | None:
        names = (name, _OLD_NAMES.get(name, name))
        found = (self._environment[one] for one in names if one in self._environment)
        return next((value for value in found if value.text), None)


def _outside(path: Argument, mounts: Mapping[str, str]) -> Argument:
    """Return the path on the host of a file that is mounted into the container."""
    return Argument(mounts.get(path.text, path.text), path.unknown)


def _words(text: str) -> list[Argument]:
    return [Argument(word) for word in text.split()]
