"""The control socket's path: the same rule for the process that listens and for the commands that look for it.

$XDG_RUNTIME_DIR/tunnels.sock, else /run/tunnels/tunnels.sock, else one in a directory of the user's own below the
temporary one. Nothing heavy is imported here: `tunnels status` must start quickly.
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
    """Raises FileNotFoundError where no directory for temporary files can be written to."""
    return Path(tempfile.gettempdir()) / f"tunnels-{os.getuid()}"


def socket_paths(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return where a running process of this user may have its socket, the likeliest first."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    found = [f"{runtime}/{NAME}"] if runtime else []
    found.append(str(_SYSTEM / NAME))
    with contextlib.suppress(FileNotFoundError):  # then no process could make one there either
        if is_ours(private := _private()):
            found.append(str(private / NAME))
    return tuple(found)


def trusted_uids(path: str, *, is_named: bool) -> frozenset[int]:
    """Return the users whose process a command of ours may talk to at `path`: this user and root.

    For root it is also the owner of the socket's directory, where root chose that directory: /run/tunnels, which
    only root can have made (systemd's RuntimeDirectory=), and the directory of a path that is named (`--control`).
    """
    trusted = {os.geteuid(), 0}
    directory = Path(path).parent
    if os.geteuid() == 0 and (is_named or directory == _SYSTEM):
        with contextlib.suppress(OSError, ValueError):
            trusted.add(directory.stat().st_uid)
    return frozenset(trusted)


def place_to_listen(environ: Mapping[str, str]) -> str:
    """Return the first of those places that can be used; its directory is made where need be.

    Raises OSError if there is none.
    """
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime and _is_usable(Path(runtime)):
        return f"{runtime}/{NAME}"
    with contextlib.suppress(OSError):  # only root may, and not on a read-only root
        _SYSTEM.mkdir(mode=0o755, exist_ok=True)
    if _is_usable(_SYSTEM):
        return str(_SYSTEM / NAME)
    try:
        private = _private()
    except FileNotFoundError:
        tried = [runtime] if runtime else []
        raise PermissionError(
            f"none of {', '.join([*tried, str(_SYSTEM), '/tmp'])} can be written to"  # noqa: S108 - only named
        ) from None
    with contextlib.suppress(FileExistsError):
        private.mkdir(mode=0o700)
    if not is_ours(private):
        raise PermissionError(
            f"{private} belongs to another user, is writable for others or is no directory: remove it, or name another "
            "place with --control"
        )
    return str(private / NAME)


def _is_usable(directory: Path) -> bool:
    """Return whether we may make a socket there, and neither another user's process nor its link decides over it."""
    if not os.access(directory, os.W_OK | os.X_OK):
        return False
    try:
        owner = directory.stat().st_uid
    except OSError:
        return False
    if owner in (0, os.geteuid()):
        return True
    log.warning(
        "the control socket is not made in %s: it belongs to uid %d, expected this user or root", directory, owner
    )
    return False


def is_ours(directory: Path) -> bool:
    """Return whether it is a directory of this user's that nobody else can write to.

    Anybody can make one of that name in the temporary directory, and what is sent to a socket in it may hold secrets.
    """
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022
