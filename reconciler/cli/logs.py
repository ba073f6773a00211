"""Where log lines go and what they look like: text for people on stderr, one line a change, times in UTC."""

from __future__ import annotations

import logging
import re
import sys
import time

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class _Text(logging.Formatter):
    """`2026-11-22T10:00:00.123Z INFO tunnel prod/pg is up`, control characters escaped."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        # What servers and clients send may stand in a message; it must not forge lines or drive a terminal.
        return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", super().format(record))


def set_up(level: str) -> None:
    """Log to stderr at this level; asyncssh's own words only where they are warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
