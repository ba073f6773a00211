"""What `ssh -G` says about a command, and a translated target in the same words."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from typing import Any

Printed = Mapping[str, list[str]]

_LOOPBACK = {"any": "localhost", "inet": "127.0.0.1", "inet6": "::1"}
_WILDCARD = {"any": "*", "inet": "0.0.0.0", "inet6": "::"}


def printed_by_ssh(*arguments: str) -> Printed:
    """Return the keywords of `ssh -G` with their values."""
    ran = subprocess.run(["ssh", "-G", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, list[str]] = {}
    for line in ran.stdout.splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name, []).append(value)
    return found


def assert_agrees(target: Mapping[str, Any], ssh: Printed) -> None:
    """Assert that a target of `tunnels check --output json` does what ssh would do."""

    def first(name: str, default: str = "") -> str:
        return ssh.get(name, [default])[0]

    assert (target["host"], target["user"]) == (first("hostname"), first("user"))
    assert target.get("port", 22) == int(first("port"))
    assert target["compress"] == (first("compression") == "yes")
    if first("connecttimeout") not in ("none", "0"):
        assert seconds(target["connectTimeout"]) == int(first("connecttimeout"))
    if first("serveraliveinterval") != "0":
        assert seconds(target["keepaliveInterval"]) == int(first("serveraliveinterval"))
        assert target["keepaliveCountMax"] == int(first("serveralivecountmax"))
    checking = {"false": False, "accept-new": "accept-new"}.get(first("stricthostkeychecking"), True)
    assert target["strictHostKeyChecking"] == checking
    assert has_jump_hosts(target) == ("proxyjump" in ssh or " -W " in first("proxycommand"))
    made = Counter(line_of(tunnel) for tunnel in target["tunnels"])
    assert made == Counter(lines_of(ssh))


def has_jump_hosts(target: Mapping[str, Any]) -> bool:
    return bool(target.get("jumpHosts") or target.get("jumpHost"))


def seconds(text: str) -> float:
    return float(text.removesuffix("s")) if not text.endswith("m") else 60 * float(text[:-1])


def lines_of(ssh: Printed) -> list[str]:
    """Return the forwards as `KIND LISTEN DIAL`, each with the address that ssh listens on."""
    family = ssh["addressfamily"][0]
    local = ssh.get("localforward", [])
    lines: list[str] = []
    for kind in ("local", "remote", "dynamic"):
        version = "any" if kind == "remote" else family
        default = (_WILDCARD if ssh["gatewayports"][0] == "yes" and kind != "remote" else _LOOPBACK)[version]
        for printed in ssh.get(f"{kind}forward", []):
            if kind == "dynamic" and any(re.fullmatch(re.escape(printed) + " /.*", one) for one in local):
                continue  # ssh prints the forwards to sockets twice
            if printed.endswith("[socks]:0"):
                continue  # no counterpart
            line = re.sub(r"^(?=[0-9])", f"[{default}]:", printed)
            line = re.sub(r"^\[(\*|)\]:", f"[{_WILDCARD[version]}]:", line)
            line = re.sub(r"^\[localhost\]:", f"[{_LOOPBACK[version]}]:", line)
            lines.append(f"{kind} {line}")
    return lines


def line_of(tunnel: Mapping[str, Any]) -> str:
    """Return a tunnel in the form of `lines_of`."""
    here = _end(tunnel, "local")
    there = _end(tunnel, "remote")
    match tunnel["type"]:
        case "local":
            return f"local {here} {there}"
        case "remote":
            return f"remote {there} {here}"
        case _:
            return f"dynamic {here}"


def _end(tunnel: Mapping[str, Any], side: str) -> str:
    if socket := tunnel.get(f"{side}Socket"):
        return str(socket)
    return f"[{tunnel.get(f'{side}Host')}]:{tunnel.get(f'{side}Port')}"
