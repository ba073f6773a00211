"""The path of the control socket: one rule for the process that listens and for the commands that connect.

$XDG_RUNTIME_DIR/tunnels.sock, else /run/tunnels/tunnels.sock, else tunnels-<uid>/tunnels.sock in a directory for
temporary files. This module imports nothing large: `tunnels status` must start quickly.

The directories for temporary files are those of tempfile.gettempdir(), with two differences. The current directory does
not count, because commands may run in another. Commands also look in directories that are not writable: a socket
remains usable when its disk becomes full or read-only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

NAME = "tunnels.sock"
_SYSTEM = Path("/run/tunnels")

log = logging.getLogger(__name__)


def _temporary(environ: Mapping[str, str]) -> list[Path]:
    """Return the directories for temporary files, the preferred one first."""
    named = (environ.get(name, "") for name in ("TMPDIR", "TEMP", "TMP"))
    found = map(Path, [*named, "/tmp", "/var/tmp"])  # noqa: S108 - only in a directory of our own
    return list(dict.fromkeys(one for one in found if one.is_absolute()))


def _private(environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the directories of this user in those for temporary files."""
    for directory in _temporary(environ):
        yield directory / f"tunnels-{os.getuid()}"


def socket_paths(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the possible socket paths of a running process of this user, most likely first."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    found = [f"{runtime}/{NAME}"] if runtime else []
    found.append(str(_SYSTEM / NAME))
    found += [str(private / NAME) for private in _private(environ) if is_ours(private)]
    return tuple(found)


def why_no_place(environ: Mapping[str, str]) -> str:
    """Return why no process of this user can have a control socket at a default path, "" if one can."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    tried = [*([Path(runtime)] if runtime else []), _SYSTEM, *_temporary(environ)]
    # A process that may write to /run creates /run/tunnels.
    if any(os.access(directory, os.W_OK | os.X_OK) for directory in (*tried, _SYSTEM.parent)):
        return ""
    return f"none of {', '.join(map(str, tried))} is writable"


def trusted_uids(path: str, *, is_named: bool) -> frozenset[int]:
    """Return the uids of the processes that a command may trust at `path`: this user and root.

    Root also trusts the owner of a directory that root chose: /run/tunnels, which only root can create (systemd's
    RuntimeDirectory=), and the directory of a path on the command line (`--control`).
    """
    trusted = {os.geteuid(), 0}
    directory = Path(path).parent
    if os.geteuid() == 0 and (is_named or directory == _SYSTEM):
        with contextlib.suppress(OSError, ValueError):
            trusted.add(directory.stat().st_uid)
    return frozenset(trusted)


def how_to_make_a_place() -> str:
    """Return what to do if there is no place for a control socket."""
    return f"make {_SYSTEM} writable for uid {os.geteuid()}"


def place_to_listen(environ: Mapping[str, str]) -> str:
    """Return the first usable socket path, and create its directory if necessary. Raises OSError if there is none."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime and _is_usable(Path(runtime)):
        return f"{runtime}/{NAME}"
    with contextlib.suppress(OSError):  # needs root and a writable file system
        _SYSTEM.mkdir(mode=0o755, exist_ok=True)
    if _is_usable(_SYSTEM):
        return str(_SYSTEM / NAME)
    for private in _private(environ):
        with contextlib.suppress(OSError):  # no such directory, not writable, or the disk is full
            private.mkdir(mode=0o700)
        if is_ours(private):
            if os.access(private, os.W_OK | os.X_OK):
                return str(private / NAME)
        elif os.path.lexists(private):
            raise PermissionError(f"{private} belongs to another user, is writable for others or is not a directory")
    raise PermissionError(why_no_place(environ) or "every directory for it is full or belongs to another user")


def _is_usable(directory: Path) -> bool:
    """Return True if this user can create a socket there and no other user controls the directory."""
    if not os.access(directory, os.W_OK | os.X_OK):
        return False
    try:
        owner = directory.stat().st_uid
    except OSError:
        return False
    if owner in (0, os.geteuid()):
        return True
    log.warning(
        "not using %s for the control socket: it belongs to uid %d, expected this user or root", directory, owner
    )
    return False


def is_ours(directory: Path) -> bool:
    """Return True if this user owns the directory and no other user can write to it.

    Any user can create a directory of that name among the temporary files, and requests may contain secrets.
    """
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
