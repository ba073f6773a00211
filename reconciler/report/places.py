"""Where the control socket is: the same rule for the process that listens and for the commands that look for it.

$XDG_RUNTIME_DIR/tunnels.sock, else /run/tunnels/tunnels.sock, else one in a directory of the user's own below the
temporary one. Nothing heavy is imported here: `tunnels status` must start quickly.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

NAME = "tunnels.sock"
_SYSTEM = Path("/run/tunnels")


def _private() -> Path:
    return Path(tempfile.gettempdir()) / f"tunnels-{os.getuid()}"


def socket_paths(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Where a running process of this user may have its socket, the likeliest first."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    found = [f"{runtime}/{NAME}"] if runtime else []
    found.append(str(_SYSTEM / NAME))
    if is_ours(_private()):
        found.append(str(_private() / NAME))
    return tuple(found)


def place_to_listen(environ: Mapping[str, str]) -> str:
    """The first of those places that can be used, made if need be. Raises OSError if there is none."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK | os.X_OK):
        return f"{runtime}/{NAME}"
    with contextlib.suppress(OSError):  # only root may, and not on a read-only root
        _SYSTEM.mkdir(mode=0o755, exist_ok=True)
    if os.access(_SYSTEM, os.W_OK | os.X_OK):
        return str(_SYSTEM / NAME)
    private = _private()
    private.mkdir(mode=0o700, exist_ok=True)
    if not is_ours(private):
        raise PermissionError(f"{private} belongs to somebody else, or others may write to it")
    return str(private / NAME)


def is_ours(directory: Path) -> bool:
    """Anybody can make a directory of that name: what is sent there may hold secrets."""
    try:
        found = directory.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022
