"""Where log lines go and what they look like: on stderr, one line a change, times in UTC, as text or as JSON."""

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

from reconciler.core.printable import printable as escaped
from reconciler.system.redaction import redact, redact_json

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

_UNREAD_MAX = 1 << 20  # bytes of lines that wait for whoever reads them
_LAST_WORDS = 1.0  # seconds for them at the end

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class _Text(logging.Formatter):
    """`2026-11-22T10:00:00.123Z INFO    tunnel prod/pg is up {team=data}`; a traceback follows on lines of its own."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        labels = getattr(record, "labels", None) or {}
        marks = "".join(f" {name}={value}" for name, value in labels.items())
        return escaped(redact(f"{super().formatMessage(record)}{marks and f' {{{marks[1:]}}}'}"))

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's name
        lines = super().formatException(ei).splitlines()  # type: ignore[arg-type]  # logging's own private type
        return "\n".join(escaped(redact(line)) for line in lines)


class _Json(logging.Formatter):
    """One object a line: at, level, message, and what the record carries beside: target, tunnel, reason, ..."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"at": at, "level": record.levelname.lower(), "message": redact(record.getMessage())}
        more = {name: value for name, value in record.__dict__.items() if name not in _OWN and value is not None}
        line |= cast("dict[str, str]", redact_json(more))
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, default=str)  # escapes all that is not ASCII, so no control character is left


class _Aside(logging.Handler):
    """Writes to a descriptor in a thread of its own.

    Whoever reads there may stop doing so (a pager, Ctrl-S, a collector that hangs), and the tunnels must not stop with
    it. What finds no room meanwhile is lost, and counted; what cannot be written, as on a full disk, is lost too.
    """

    def __init__(self, descriptor: int, encoding: str) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._encoding = encoding
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self._unread = 0  # bytes
        self._lost = 0
        self._written = threading.Condition()
        threading.Thread(target=self._work, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._line(record)
            with self._written:
                if self._unread + len(line) > _UNREAD_MAX:
                    self._lost += 1
                    return
                lost, self._lost = self._lost, 0
                line = (self._line(_missing(lost)) if lost else b"") + line
                self._unread += len(line)
            self._lines.put(line)
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(self._encoding, "backslashreplace")

    def flush(self) -> None:
        with self._written:
            self._written.wait_for(lambda: not self._unread, _LAST_WORDS)

    def _work(self) -> None:
        while True:
            line = self._lines.get()
            self._write(line)
            with self._written:
                self._unread -= len(line)
                self._written.notify_all()

    def _write(self, line: bytes) -> None:
        while line:
            try:
                line = line[os.write(self._descriptor, line) :]
            except BlockingIOError:  # a program that has it too made it so
                select.select((), (self._descriptor,), ())
            except OSError:
                return


def _missing(lines: int) -> logging.LogRecord:
    text = "%d lines are missing here: they were not read in time"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (lines,), None)


def _handler() -> logging.Handler:
    try:
        return _Aside(sys.stderr.fileno(), sys.stderr.encoding)
    except (AttributeError, OSError, RuntimeError):  # it is closed, no file, or there can be no thread
        return logging.StreamHandler(sys.stderr)


def set_up(level: str, form: str = "text") -> None:
    """Log to stderr at this level; asyncssh's and watchfiles' own words only where they are warnings."""
    handler = _handler()
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    # It tells of each change that it sees: in a log file beside tunnels.yaml each such line would beget the next.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
