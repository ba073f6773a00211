"""Translates the settings that targets and jump hosts share: address, trust, timeouts, algorithms."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from reconciler.cli.ssh_import.key_files import key_file
from reconciler.cli.ssh_import.login import absolute
from reconciler.cli.ssh_import.openssh import Fields, Settings
from reconciler.cli.ssh_import.tokens import literal, with_variables
from reconciler.ssh.internals.keys.algorithm_names import supported

_ALGORITHMS = {"ciphers": "cipher", "kexalgorithms": "kex", "macs": "mac", "hostkeyalgorithms": "hostKey"}
_EMPTY_FILES = frozenset({"none", "/dev/null"})
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def address(settings: Settings, *, with_user: bool) -> Fields:
    made: Fields = {"host": literal(settings.first("hostname"))}
    if settings.first("port") != "22":
        made["port"] = int(settings.first("port"))
    if with_user:
        made["user"] = literal(settings.first("user"))
    return made


def source_address(settings: Settings) -> Fields:
    """Return the fields for the source address of a TCP connection. Only the first server on the way has them."""
    made: Fields = {}
    if (family := settings.first("addressfamily", "any")) != "any":
        made["addressFamily"] = family
    if bind := settings.first("bindaddress"):
        made["bindAddress"] = literal(bind)
    return made


def connecting(settings: Settings) -> Fields:
    made: Fields = {}
    if (seconds := settings.first("connecttimeout", "none")).isdigit() and int(seconds):
        made["connectTimeout"] = f"{seconds}s"
    if settings.is_on("compression"):
        made["compress"] = True
    return made


def keepalive(settings: Settings) -> Fields:
    seconds = settings.first("serveraliveinterval", "0")
    if not seconds.isdigit() or not int(seconds):
        return {}
    count = settings.first("serveralivecountmax", "3")
    return {"keepaliveInterval": f"{seconds}s", "keepaliveCountMax": int(count) if count.isdigit() else 3}


# --- trust ------------------------------------------------------------------------------------------------------


def trust(settings: Settings, defaults: Settings) -> Fields:
    made: Fields = {}
    checking = settings.first("stricthostkeychecking", "ask")
    is_exempt = settings.is_on("nohostauthenticationforlocalhost") and settings.first("hostname") in _LOOPBACK
    if checking in ("no", "off", "false") or is_exempt:
        made["strictHostKeyChecking"] = False
    elif checking == "accept-new":
        made["strictHostKeyChecking"] = checking
    if files := _known_hosts(settings, defaults, is_checked="strictHostKeyChecking" not in made):
        paths = [with_variables(absolute(path, settings)) for path in files]
        made["knownHosts"] = paths[0] if len(paths) == 1 else paths
    if alias := settings.first("hostkeyalias"):
        made["hostKeyAlias"] = alias
    return made


def file_to_create(trusted: Fields) -> str:
    """Return the known_hosts file that ssh would create and `tunnels run` does not; "" if there is none."""
    files = trusted.get("knownHosts", "")
    first = str(files[0] if isinstance(files, list) else files)
    is_needed = trusted.get("strictHostKeyChecking") == "accept-new" and first not in ("", "/dev/null")
    return first if is_needed and not key_file(first).is_there else ""


def _known_hosts(settings: Settings, defaults: Settings, *, is_checked: bool) -> list[str]:
    """Return the files to name: none if they are the default ones of tunnels.yaml.

    Further default files, and global files, are left out if they do not exist.
    """
    own = settings.all("userknownhostsfile")
    users = [path for value in own for path in paths_in(value)]
    of_system = [path for value in settings.all("globalknownhostsfile") for path in paths_in(value)]
    everywhere = [path for path in of_system if path not in _EMPTY_FILES and key_file(path).is_there]
    if own == defaults.all("userknownhostsfile"):
        more = [path for path in users[1:] if key_file(path).is_there]
        return [*users[:1], *more, *everywhere] if more or everywhere else []
    named = [path for path in users if path not in _EMPTY_FILES]
    if not named and is_checked and not everywhere:
        return ["/dev/null"]  # no known host at all, rather than those of the default file
    return [*named, *everywhere]


def paths_in(value: str) -> list[str]:
    """Split a list of paths, which ssh prints without quotes. A word that begins no path belongs to the one before."""
    made: list[str] = []
    for word in value.split(" "):
        if made and not re.match(r"[/~%$]|none$", word) and (made[-1].startswith(("/", "~")) and not _exists(word)):
            made[-1] += f" {word}"
        elif word:
            made.append(word)
    return made


def _exists(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises for a long name


# --- algorithms -------------------------------------------------------------------------------------------------


def algorithms(settings: Settings, defaults: Settings) -> tuple[Fields, list[str]]:
    """Return the algorithms that differ from the defaults of ssh, and messages about those that are not supported."""
    made: dict[str, list[str]] = {}
    lost: list[str] = []
    for keyword, kind in _ALGORITHMS.items():
        names, usual = settings.first(keyword).split(","), defaults.first(keyword).split(",")
        if names == usual:
            continue
        known = supported(kind)
        kept = [name for name in names if name in known]
        missing = [name for name in names if name not in known and (name not in usual or not kept)]
        if missing:
            lost.append(f"{keyword}: {_listed(missing)} not supported")
        if kept:
            made[kind] = kept
    if _signs_with_sha1(settings) and not _signs_with_sha1(defaults):
        # One field opts in to it for host keys and for the keys of users.
        names = made.get("hostKey") or [name for name in _usual_host_keys(defaults) if name in supported("hostKey")]
        made["hostKey"] = list(dict.fromkeys([*names, "ssh-rsa"]))
    return ({"algorithms": made} if made else {}), lost


def _usual_host_keys(defaults: Settings) -> list[str]:
    return defaults.first("hostkeyalgorithms").split(",")


def _signs_with_sha1(settings: Settings) -> bool:
    return "ssh-rsa" in settings.first("pubkeyacceptedalgorithms").split(",")


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"
