"""Another user's process on this machine, for tests of what a local user must not be able to do. Needs root.

In: Python source that runs as the user `nobody`; fcntl, os, socket, stat, sys and time are imported. It tells with
`print("ready", flush=True)` that it has begun. Out: the process, ended when the block is left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start another user's process")

# The imports come first: the interpreter's files need not be readable for the other user.
_BECOME = f"""
import fcntl, os, socket, stat, sys, time
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
"""


@contextlib.contextmanager
def other_user(source: str, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the source as `nobody` from when it says that it is ready until the block is left."""
    command = [sys.executable, "-c", _BECOME + source, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def shared_directory(mode: int = 0o1777, owner: int = -1) -> Iterator[Path]:
    """A directory that other users reach; pytest's own are below one that is closed to them."""
    directory = Path(tempfile.mkdtemp(prefix="tunnels-test-"))
    try:
        if owner >= 0:
            os.chown(directory, owner, owner)
        directory.chmod(mode)
        yield directory
    finally:
        shutil.rmtree(directory)
