"""Keeps the machine's network interfaces as they are while a browser is in use.

When an interface appears or disappears, Chromium aborts all requests (net::ERR_NETWORK_CHANGED). Tests run in several
processes: some make network namespaces, others show pages.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from support.container import temporary_root


def no_changes() -> contextlib.AbstractContextManager[None]:
    """Let no test change the interfaces during the block."""
    return _locked(fcntl.LOCK_SH)


def changes() -> contextlib.AbstractContextManager[None]:
    """Wait until no browser is in use, and let none be used during the block."""
    return _locked(fcntl.LOCK_EX)


@contextlib.contextmanager
def _locked(kind: int) -> Iterator[None]:
    descriptor = os.open(temporary_root() / f"tunnels-test-network-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, kind)
        yield
    finally:
        os.close(descriptor)
