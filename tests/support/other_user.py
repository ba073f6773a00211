"""Runs Python source as another local user, for tests of attacks by local users. Needs root.

The source runs as the user `nobody`, with fcntl, os, socket, stat, sys and time imported. It must print "ready" when it
has started: `print("ready", flush=True)`. The process is killed at the end of the block.
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
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start another user's process")

# The imports come first: the other user may not be able to read the interpreter's files.
_BECOME = f"""
import fcntl, os, socket, stat, sys, time
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
"""


@contextlib.contextmanager
def other_user(source: str, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the source as `nobody` during the block, which starts when the process is ready."""
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
    """Yield a directory that other users can enter. They cannot enter pytest's directories."""
    directory = Path(tempfile.mkdtemp(prefix="tunnels-test-"))
    try:
        if owner >= 0:
            os.chown(directory, owner, owner)
        directory.chmod(mode)
        yield directory
    finally:
        shutil.rmtree(directory)
