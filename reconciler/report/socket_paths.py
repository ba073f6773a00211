"""The path of the control socket: one rule for the process that listens and for the commands that connect.

$XDG_RUNTIME_DIR/tunnels.sock, else /run/tunnels/tunnels.sock, else tunnels-<uid>/tunnels.sock in the directory for
temporary files. This module imports nothing large: `tunnels status` must start quickly.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

NAME = "tunnels.sock"
_SYSTEM = Path("/run/tunnels")

log = logging.getLogger(__name__)


def _private() -> Path:
    """Return the private directory. Raises FileNotFoundError if no directory for temporary files is writable."""
    return Path(tempfile.gettempdir()) / f"tunnels-{os.getuid()}"


def socket_paths(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the possible socket paths of a running process of this user, most likely first."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    found = [f"{runtime}/{NAME}"] if runtime else []
    found.append(str(_SYSTEM / NAME))
    with contextlib.suppress(FileNotFoundError):  # no process could create one there either
        if is_ours(private := _private()):
            found.append(str(private / NAME))
    return tuple(found)


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


def place_to_listen(environ: Mapping[str, str]) -> str:
    """Return the first usable socket path, and create its directory if necessary. Raises OSError if there is none."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime and _is_usable(Path(runtime)):
        return f"{runtime}/{NAME}"
    with contextlib.suppress(OSError):  # needs root and a writable file system
        _SYSTEM.mkdir(mode=0o755, exist_ok=True)
    if _is_usable(_SYSTEM):
        return str(_SYSTEM / NAME)
    try:
        private = _private()
    except FileNotFoundError:
        tried = [runtime] if runtime else []
        raise PermissionError(
            f"none of {', '.join([*tried, str(_SYSTEM), '/tmp'])} is writable"  # noqa: S108 - only named
        ) from None
    with contextlib.suppress(FileExistsError):
        private.mkdir(mode=0o700)
    if not is_ours(private):
        raise PermissionError(
            f"{private} belongs to another user, is writable for others or is not a directory: remove it, or set "
            "another path with --control"
        )
    return str(private / NAME)


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
