"""Replaces the % tokens of ssh_config(5) in values that `ssh -G` prints as they are written."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from collections.abc import Callable, Mapping

from reconciler.cli.ssh_import.config_files import home_of_ssh
from reconciler.cli.ssh_import.openssh import Settings
from reconciler.config.options import process_user

_TOKEN = re.compile(r"%(.)", re.DOTALL)
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def expanded(text: str, settings: Settings, *, keep: str = "") -> str:
    """Replace the tokens except those in `keep`, which `proxyCommand` in tunnels.yaml also replaces."""
    values = _values(settings)

    def value(token: re.Match[str]) -> str:
        made = values.get(token[1])
        return token[0] if made is None or token[1] in keep else made().replace("%", "%%" if keep else "%")

    return _TOKEN.sub(value, text)


def _values(settings: Settings) -> dict[str, Callable[[], str]]:
    host, port, user = settings.first("hostname"), settings.first("port"), settings.first("user")
    jump = settings.first("proxyjump").rpartition(",")[2]
    local = socket.gethostname()
    alias = settings.given_host
    return {
        "%": lambda: "%",
        "h": lambda: host,
        "n": lambda: alias,
        "k": lambda: settings.first("hostkeyalias", alias),
        "p": lambda: port,
        "r": lambda: user,
        "j": lambda: jump,
        "u": process_user,
        "d": home_of_ssh,
        "i": lambda: str(os.getuid()),
        "l": lambda: local,
        "L": lambda: local.partition(".")[0],
        "C": lambda: hashlib.sha1(f"{local}{host}{port}{user}{jump}".encode()).hexdigest(),  # noqa: S324 - as in ssh
    }


def literal(text: str) -> str:
    """Return the text for tunnels.yaml, where a dollar begins a variable."""
    return text.replace("$", "$$")


def with_variables(text: str) -> str:
    """Return the text for tunnels.yaml. `${NAME}` stays a variable, as in ssh; any other dollar is literal."""
    parts = _VARIABLE.split(text)
    return "".join(f"${{{part}}}" if index % 2 else literal(part) for index, part in enumerate(parts))


def replaced(text: str, environ: Mapping[str, str]) -> str:
    """Replace `${NAME}` where the environment has it."""
    return _VARIABLE.sub(lambda found: environ.get(found[1], found[0]), text)
