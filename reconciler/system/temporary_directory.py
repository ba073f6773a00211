"""A directory for temporary files that is deleted at the end of a block."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


class NoTemporaryDirectoryError(Exception):
    """No temporary directory can be created. The message says what to do."""


@contextlib.contextmanager
def temporary_directory(prefix: str) -> Iterator[Path]:
    """Create a private directory and yield its path. Raises NoTemporaryDirectoryError."""
    try:
        created = tempfile.TemporaryDirectory(prefix=prefix)
    except OSError as error:
        # tempfile reports a full disk like a missing directory.
        raise NoTemporaryDirectoryError(
            "cannot create a temporary directory: none of $TMPDIR, /tmp, /var/tmp is writable and has free space: "
            "set TMPDIR to a directory that is"
        ) from error
    with created as directory:
        yield Path(directory)
