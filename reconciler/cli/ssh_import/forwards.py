"""Translates the forwards that `ssh -G` prints to tunnels.

A line has the form `LISTEN DIAL`. LISTEN is `PORT`, `[HOST]:PORT` or the path of a socket, DIAL is `[HOST]:PORT` or a
path. Paths may contain spaces, and nothing is quoted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.cli.ssh_import.openssh import Fields, Settings

_HOST_AND_PORT = re.compile(r"\[(?P<host>[^\]]*)\]:(?P<port>[0-9]+)")
_LISTEN = re.compile(r"(?P<listen>[0-9]+|\[[^\]]*\]:[0-9]+) (?P<dial>.*)", re.DOTALL)
_DIAL = re.compile(r"(?P<listen>.*) (?P<dial>\[[^\]]*\]:[0-9]+)", re.DOTALL)
_LOOPBACK = {"any": "localhost", "inet": "127.0.0.1", "inet6": "::1"}
_OPTIONS = {"local": "-L", "remote": "-R", "socks": "-D"}
_WILDCARD = {"any": "*", "inet": "0.0.0.0", "inet6": "::"}  # noqa: S104 - the names of "all interfaces"


@dataclass(frozen=True, slots=True)
class SshForward:
    """A forward that ssh would open.

    label  as in ssh's options, for messages
    entry  the fields of its tunnel; None if it has no counterpart
    lost   why it has none
    """

    label: str
    entry: Fields | None
    lost: str = ""


def forwards_of(settings: Settings) -> Iterator[SshForward]:
    """Yield the forwards: local, remote, SOCKS, each in the order of the configuration."""
    sockets = _dynamic_lines_of_sockets(settings)
    family = settings.first("addressfamily", "any")
    open_to_all = settings.is_on("gatewayports")
    for keyword, kind in (("localforward", "local"), ("remoteforward", "remote"), ("dynamicforward", "socks")):
        for line in settings.all(keyword):
            if kind == "socks" and sockets[line] > 0:
                sockets[line] -= 1
                continue
            listen, dial = (line, "") if kind == "socks" else _ends(line, settings)
            label = f"{_OPTIONS[kind]} {_plain(listen)}" + (f":{_plain(dial)}" if dial not in ("", "[socks]:0") else "")
            if dial == "[socks]:0":
                yield SshForward(label, None, "a SOCKS server on the remote side (ssh -R PORT) is not supported")
                continue
            here = _listen(listen, "any" if kind == "remote" else family, open_to_all and kind != "remote")
            entry = _entry(kind, here, _dial(dial))
            if kind == "local" and here.startswith("/") and (mode := _mode(settings)):
                entry = _long(kind, here, _dial(dial)) | {"mode": mode}
            yield SshForward(label, entry)


def _dynamic_lines_of_sockets(settings: Settings) -> Counter[str]:
    """Count the dynamicforward lines that no DynamicForward made.

    ssh also prints one, with LISTEN alone, for each local forward to a socket.
    """
    dynamic = settings.all("dynamicforward")
    local = [line for line in settings.all("localforward") if not _HOST_AND_PORT.fullmatch(line.rpartition(" ")[2])]
    return Counter(one for line in local if (one := _longest_start(line, dynamic)))


def _longest_start(line: str, starts: tuple[str, ...]) -> str:
    return max((start for start in starts if line.startswith(f"{start} ")), key=len, default="")


def _ends(line: str, settings: Settings) -> tuple[str, str]:
    """Split a line at the space between LISTEN and DIAL."""
    matched = _LISTEN.fullmatch(line) or _DIAL.fullmatch(line)
    if matched is not None:
        return matched["listen"], matched["dial"]
    listen = _longest_start(line, settings.all("dynamicforward")) or line.partition(" /")[0]
    return listen, line[len(listen) + 1 :]


def _listen(text: str, family: str, open_to_all: bool) -> str:
    """Return the address in the short form. Without one ssh listens on loopback in both IP versions."""
    if text.startswith("/"):
        return text
    matched = _HOST_AND_PORT.fullmatch(text)
    host, port = (matched["host"], matched["port"]) if matched else (None, text)
    if host is None:
        host = _WILDCARD[family] if open_to_all else _LOOPBACK[family]
    elif host in ("", "*"):
        host = _WILDCARD[family]
    elif host == "localhost":
        host = _LOOPBACK[family]
    return f"{_bracketed(host)}:{port}"


def _dial(text: str) -> str:
    matched = _HOST_AND_PORT.fullmatch(text)
    return f"{_bracketed(matched['host'])}:{matched['port']}" if matched else text


def _plain(end: str) -> str:
    """Return LISTEN or DIAL in the form of ssh's options."""
    return re.sub(r"^\[([^:\]]*)\]", r"\1", end)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _entry(kind: str, listen: str, dial: str) -> Fields:
    """Return the short form, or the long one if a path contains the separator."""
    if any(":" in end for end in (listen, dial) if end.startswith("/")):
        return _long(kind, listen, dial)
    return {kind: f"{listen}:{dial}" if dial else listen}


def _long(kind: str, listen: str, dial: str) -> Fields:
    near, far = (dial, listen) if kind == "remote" else (listen, dial)
    return {"type": kind} | _side("local", near) | (_side("remote", far) if far else {})


def _side(prefix: str, end: str) -> Fields:
    if end.startswith("/"):
        return {f"{prefix}Socket": end}
    host, _, port = end.rpartition(":")
    return {f"{prefix}Host": host.strip("[]"), f"{prefix}Port": int(port)}


def _mode(settings: Settings) -> str:
    """Return the mode of a socket to listen on; "" for the default."""
    mask = int(settings.first("streamlocalbindmask", "0177"), 8)
    return "" if mask == 0o177 else f"{0o666 & ~mask:04o}"
