"""The log of asyncssh: warnings, and everything about the connections of targets with `logLevel: debug`.

asyncssh has one logger for all connections. A filter on it passes the messages of the connections being watched, with
the target's name. The level is at most 2, because at 3 asyncssh logs passwords. A server decides how much is logged, so
each target has a limit.
"""

from __future__ import annotations

import logging
import time

import asyncssh

from reconciler.ssh.internals import connection_number
from reconciler.system.redaction import redact

_LOGGER = logging.getLogger("asyncssh")
_targets: dict[str, str] = {}  # by connection number
_LINES_MAX = 500  # for one target in a second
_TEXT_MAX = 4096  # characters of a line
_lines: dict[str, tuple[float, int]] = {}  # by target: start of the present second, and lines since


def watch(connection: asyncssh.SSHClientConnection, target: str) -> None:
    """Start logging everything about this connection."""
    if not _targets:
        asyncssh.set_debug_level(2)
        _LOGGER.setLevel(logging.DEBUG)
        _LOGGER.addFilter(_filter)
    _targets[connection_number.of(connection)] = target


def unwatch(connection: asyncssh.SSHClientConnection) -> None:
    """Return to warnings only, if it was watched. Call it at the end of the connection too."""
    target = _targets.pop(connection_number.of(connection), None)
    if target is not None and target not in _targets.values():
        _lines.pop(target, None)
    if target is not None and not _targets:
        _LOGGER.removeFilter(_filter)
        quiet()


def quiet() -> None:
    """Log warnings only, unless a connection is watched."""
    if not _targets:
        _LOGGER.setLevel(logging.WARNING)


def _filter(record: logging.LogRecord) -> bool:
    target = _targets.get(connection_number.in_message(str(record.msg)))
    if target is None:
        return record.levelno >= logging.WARNING
    now = time.monotonic()
    since, lines = _lines.get(target, (now, 0))
    if now - since >= 1:
        since, lines = now, 0
    _lines[target] = since, lines + 1
    if lines > _LINES_MAX and record.levelno < logging.WARNING:
        return False
    text = record.getMessage() if lines < _LINES_MAX else "more lines in this second are dropped"
    record.msg, record.args = "%s", (f"{target}: {redact(text)[:_TEXT_MAX]}",)
    return True
