"""The limit of open files (RLIMIT_NOFILE): raising it, reading it, and giving child processes the old one back.

The soft limit is often 1024 (systemd, login shells) or 256 (macOS), far below the hard one, for the sake of programs
that use select(), which fails for descriptors above 1023. This program does not; a program that it starts may. So it
raises its own soft limit, and starts programs with the limit that it was given.
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

# Where the hard limit is higher, or infinite: some programs and libraries loop over all possible descriptors.
HIGHEST = 1 << 20
_LOWER = (1 << 19, 1 << 16, 24576, 10240)  # macOS refuses more than kern.maxfilesperproc, whatever the hard limit is

# A preexec_fn would be simpler, but runs Python code between fork and exec, which may deadlock in a process with
# threads; prlimit(2) on the running child comes too late for one that reads its limit when it starts, and only Linux
# has it. Python ignores SIGPIPE and SIGXFSZ, and an ignored signal stays so over exec.
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

_given: int | None = None  # the soft limit before it was raised


def raise_soft_limit() -> int:
    """Raise the soft limit to the hard one, at most to HIGHEST. Returns the soft limit."""
    global _given  # noqa: PLW0603 - the limit is the process's own, and there is one
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (HIGHEST, *_LOWER):
        new = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft == resource.RLIM_INFINITY or new <= soft:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (new, hard))
        except (OSError, ValueError):
            continue
        _given = soft if _given is None else _given
        break
    return soft_limit()


def soft_limit() -> int:
    """How many descriptors this process may have open, HIGHEST at most."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return HIGHEST if soft == resource.RLIM_INFINITY else min(soft, HIGHEST)


def open_count() -> int:
    """How many descriptors are open now; 0 where that cannot be known."""
    for directory in ("/proc/self/fd", "/dev/fd"):
        try:
            return max(0, len(os.listdir(directory)) - 1)  # noqa: PTH208 - one of them is that of the listing
        except OSError:
            continue
    return 0


def budget() -> Budget:
    """The budget of this process, as its limit and its open descriptors are now."""
    return Budget(soft_limit(), open_count())


def with_given_limit(command: Sequence[str], environ: Mapping[str, str]) -> tuple[str, ...]:
    """The command, to be started with the soft limit that this process was given.

    Raises FileNotFoundError or PermissionError where the program cannot be run, as starting it would.
    """
    if _given is None or not sys.executable:
        return tuple(command)
    _require_program(command[0], environ)
    return (sys.executable, "-I", "-S", "-c", _START, str(_given), *command)


def _require_program(program: str, environ: Mapping[str, str]) -> None:
    path = environ.get("PATH", os.defpath)
    if shutil.which(program, path=path) is not None:
        return
    places = [program] if os.path.dirname(program) else [str(Path(one) / program) for one in path.split(os.pathsep)]  # noqa: PTH120 - "./x" has one, and Path drops it
    code = errno.EACCES if any(os.path.exists(place) for place in places) else errno.ENOENT  # noqa: PTH110 - Path.exists raises in a folder that is not ours
    raise OSError(code, os.strerror(code), program)
