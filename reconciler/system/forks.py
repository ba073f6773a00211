"""Resets objects in child processes that are made by `fork`, in which only the forking thread goes on.

Without that, a child would wait for threads that it does not have, or for a lock that one of them held.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Resettable(Protocol):
    """An object that has threads."""

    def reset(self) -> None:
        """Forget all threads, locks and work."""


_objects: weakref.WeakSet[Resettable] = weakref.WeakSet()


def reset_in_children(one: Resettable) -> None:
    """Reset this object in each child process."""
    _objects.add(one)


def _reset() -> None:
    for one in list(_objects):
        one.reset()


os.register_at_fork(after_in_child=_reset)
