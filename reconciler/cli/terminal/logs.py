"""Log output on stderr: one line for each record, times in UTC, as text or as JSON.

The levels of text have colours if stderr is a terminal.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import threading
import time
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import cast

import click

from reconciler.cli.terminal.table import is_coloured
from reconciler.core.text.printable import printable as escaped
from reconciler.system.redaction import redact, redact_json

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

_QUEUED_MAX = 1 << 20  # bytes of lines that are not yet written
_FLUSH_TIMEOUT = 1.0  # seconds at exit

_COLOURS = {"DEBUG": "bright_black", "INFO": "green", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}

# The attributes that every log record has. The others are the fields that the caller gave as `extra`.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class _Text(logging.Formatter):
    """Formats `2026-11-22T10:00:00.123Z INFO    tunnel prod/pg is up {team=data}`, then the lines of a traceback."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, *, coloured: bool = False) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")
        self._coloured = coloured

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        labels = getattr(record, "labels", None) or {}
        suffix = "".join(f" {name}={value}" for name, value in labels.items())
        message = escaped(redact(f"{record.message}{suffix and f' {{{suffix[1:]}}}'}"))
        level = f"{record.levelname:<7}"
        if self._coloured and record.levelname in _COLOURS:
            level = click.style(level, fg=_COLOURS[record.levelname])
        return f"{record.asctime} {level} {message}"

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's name
        lines = super().formatException(ei).splitlines()  # type: ignore[arg-type]  # logging's own private type
        return "\n".join(escaped(redact(line)) for line in lines)


class _Json(logging.Formatter):
    """Formats one JSON object per line: at, level, message, and the record's own fields (target, tunnel, reason...)."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"at": at, "level": record.levelname.lower(), "message": redact(record.getMessage())}
        fields = {name: value for name, value in record.__dict__.items() if name not in _STANDARD and value is not None}
        line |= cast("dict[str, str]", redact_json(fields))
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, default=str)  # dumps escapes all that is not ASCII, control characters too


class _ThreadedHandler(logging.Handler):
    """Writes to a descriptor in a thread of its own.

    The reader may stop reading (a pager, Ctrl-S, a hung log collector), and the tunnels must not stop with it. Lines
    that exceed the queue are dropped and counted. Lines that cannot be written, as on a full disk, are dropped too.
    """

    def __init__(self, descriptor: int, encoding: str) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._encoding = encoding
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self._queued = 0  # bytes
        self._dropped = 0
        self._condition = threading.Condition()
        threading.Thread(target=self._work, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._line(record)
            with self._condition:
                if self._queued + len(line) > _QUEUED_MAX:
                    self._dropped += 1
                    return
                dropped, self._dropped = self._dropped, 0
                line = (self._line(_dropped_record(dropped)) if dropped else b"") + line
                self._queued += len(line)
            self._lines.put(line)
        except Exception:  # noqa: BLE001 - as logging's handlers do
            self.handleError(record)

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(self._encoding, "backslashreplace")

    def flush(self) -> None:
        with self._condition:
            self._condition.wait_for(lambda: not self._queued, _FLUSH_TIMEOUT)

    def _work(self) -> None:
        while True:
            line = self._lines.get()
            self._write(line)
            with self._condition:
                self._queued -= len(line)
                self._condition.notify_all()

    def _write(self, line: bytes) -> None:
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
            except BlockingIOError:  # another program that shares the descriptor made it non-blocking
                select.select((), (self._descriptor,), ())
            except OSError:
                return


def _dropped_record(lines: int) -> logging.LogRecord:
    text = "dropped %d log lines: stderr was not read in time"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (lines,), None)


def _handler() -> logging.Handler:
    try:
        return _ThreadedHandler(sys.stderr.fileno(), sys.stderr.encoding)
    except (AttributeError, OSError, RuntimeError):  # stderr is closed or no file, or no thread can start
        return logging.StreamHandler(sys.stderr)


def set_up(level: str, form: str = "text") -> None:
    """Log to stderr at this level. asyncssh and watchfiles log only warnings and errors."""
    handler = _handler()
    coloured = sys.stderr is not None and is_coloured(sys.stderr)  # None: it is closed
    handler.setFormatter(_Json() if form == "json" else _Text(coloured=coloured))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    # watchfiles logs each change it sees. With a log file beside tunnels.yaml, each line would cause the next.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
