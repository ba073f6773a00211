"""The log of asyncssh: warnings, and everything about the connections of targets with `logLevel: debug`.

asyncssh has one logger for all connections and starts each message with the number of the connection. A filter on that
logger passes the numbers being watched, with the target's name. The level is at most 2, because at 3 asyncssh logs
passwords. A server decides how much is logged, so each target has a limit.
"""

from __future__ import annotations

import logging
import re
import time

import asyncssh

from reconciler.system.redaction import redact

_LOGGER = logging.getLogger("asyncssh")
_NUMBER = re.compile(r"\[(conn=\d+)[],]")
_targets: dict[str, str] = {}
_LINES_MAX = 500  # for one target in a second
_TEXT_MAX = 4096  # characters of a line
_lines: dict[str, tuple[float, int]] = {}  # by target: start of the present second, and lines since


def watch(connection: asyncssh.SSHClientConnection, target: str) -> None:
    """Start logging everything about this connection."""
    if not _targets:
        asyncssh.set_debug_level(2)
        _LOGGER.setLevel(logging.DEBUG)
        _LOGGER.addFilter(_filter)
    _targets[_number(connection)] = target


def unwatch(connection: asyncssh.SSHClientConnection) -> None:
    """Return to warnings only, if it was watched. Call it at the end of the connection too."""
    target = _targets.pop(_number(connection), None)
    if target is not None and target not in _targets.values():
        _lines.pop(target, None)
    if target is not None and not _targets:
        _LOGGER.removeFilter(_filter)
        quiet()


def quiet() -> None:
    """Log warnings only, unless a connection is watched."""
    if not _targets:
        _LOGGER.setLevel(logging.WARNING)


def _number(connection: asyncssh.SSHClientConnection) -> str:
    text, _ = connection.logger.process("", {})
    found = _NUMBER.match(text)
    return found.group(1) if found else ""


def _filter(record: logging.LogRecord) -> bool:
    found = _NUMBER.match(str(record.msg))
    target = _targets.get(found.group(1)) if found else None
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
