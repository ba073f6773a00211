"""The limit of open files (RLIMIT_NOFILE): raises it, reads it, and restores the old one for child processes.

The soft limit is often 1024 (systemd, login shells) or 256 (macOS), far below the hard limit, because select() fails
for descriptors above 1023. This program does not use select(), but its child processes may. So it raises its own soft
limit and starts child processes with the original one.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from reconciler.core.descriptor_budget import Budget

# A cap on a higher or infinite hard limit: some programs and libraries loop over all possible descriptors.
HIGHEST = 1 << 20
_LOWER = (1 << 19, 1 << 16, 24576, 10240)  # macOS refuses more than kern.maxfilesperproc, whatever the hard limit is

# Not a preexec_fn: it runs Python code between fork and exec, which may deadlock in a process with threads. Not
# prlimit(2) on the running child: a child that reads its limit at start reads the old one, and only Linux has the call.
# Python ignores SIGPIPE and SIGXFSZ, and exec keeps ignored signals ignored, so both are reset.
_START = """
import os, resource, signal, sys
soft, command = int(sys.argv[1]), sys.argv[2:]
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
for name in ("SIGPIPE", "SIGXFSZ"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
try:
    os.execvp(command[0], command)
except OSError as error:
    sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\\n")
    os._exit(127 if isinstance(error, FileNotFoundError) else 126)
"""

_original: int | None = None  # the soft limit before it was raised


def raise_soft_limit() -> int:
    """Raise the soft limit to the hard limit, at most to HIGHEST. Return the new soft limit."""
    global _original  # noqa: PLW0603 - a process has one limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (HIGHEST, *_LOWER):
        new = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft == resource.RLIM_INFINITY or new <= soft:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (new, hard))
        except (OSError, ValueError):
            continue
        _original = soft if _original is None else _original
        break
    return soft_limit()


def soft_limit() -> int:
    """Return how many descriptors this process may have open, at most HIGHEST."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return HIGHEST if soft == resource.RLIM_INFINITY else min(soft, HIGHEST)


def open_count() -> int:
    """Return how many descriptors are open, or 0 if the system does not say."""
    for directory in ("/proc/self/fd", "/dev/fd"):
        try:
            return max(0, len(os.listdir(directory)) - 1)  # noqa: PTH208 - minus the descriptor of this listing
        except OSError:
            continue
    return 0


def budget() -> Budget:
    """Return the budget for the current limit and the descriptors that are open now."""
    return Budget(soft_limit(), open_count())


def with_given_limit(command: Sequence[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return a command that sets the original soft limit and then runs `command`.

    Raises FileNotFoundError or PermissionError if the program cannot be run, as starting it would.
    """
    if _original is None or not sys.executable:
        return tuple(command)
    _require_program(command[0], environ)
    return (sys.executable, "-I", "-S", "-c", _START, str(_original), *command)


def _require_program(program: str, environ: Mapping[str, str]) -> None:
    path = environ.get("PATH", os.defpath)
    if shutil.which(program, path=path) is not None:
        return
    paths = [program] if os.path.dirname(program) else [str(Path(one) / program) for one in path.split(os.pathsep)]  # noqa: PTH120 - Path drops the directory of "./x"
    code = errno.EACCES if any(os.path.exists(one) for one in paths) else errno.ENOENT  # noqa: PTH110 - Path.exists raises in a directory without permission
    raise OSError(code, os.strerror(code), program)
