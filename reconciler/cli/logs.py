"""Where log lines go and what they look like: on stderr, one line a change, times in UTC, as text or as JSON."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from datetime import UTC, datetime

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def escaped(text: str) -> str:
    """What servers and clients send may stand in a message; it must not forge lines or drive a terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


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
        return escaped(f"{super().formatMessage(record)}{marks and f' {{{marks[1:]}}}'}")

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging's name
        lines = super().formatException(ei).splitlines()  # type: ignore[arg-type]  # logging's own private type
        return "\n".join(map(escaped, lines))


class _Json(logging.Formatter):
    """One object a line: at, level, message, and what the record carries beside: target, tunnel, reason, ..."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"at": at, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= {name: value for name, value in record.__dict__.items() if name not in _OWN and value is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)  # escapes all that is not ASCII, so no control character is left


def set_up(level: str, form: str = "text") -> None:
    """Log to stderr at this level; asyncssh's and watchfiles' own words only where they are warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    # It tells of each change that it sees: in a log file beside tunnels.yaml each such line would beget the next.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
