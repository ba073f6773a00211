"""The base of the exceptions that a Python program sees."""

from __future__ import annotations


class TunnelsError(Exception):
    """The base of all exceptions that the calls of the Python API raise, except for wrong arguments."""
