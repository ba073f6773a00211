"""One line on a terminal that shows progress: each text replaces the one before. It needs a terminal as stderr."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from reconciler.core.text.printable import printable
from reconciler.system.redaction import redact

_CLEAR = "\r\x1b[K"  # to the start of the line, and erase it


class TerminalLine:
    """The line. Calls may come from several threads."""

    def __init__(self, stream: TextIO | None) -> None:
        is_shown = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
        self._stream = stream if is_shown else None
        self._lock = threading.Lock()
        self._text = ""

    @property
    def is_shown(self) -> bool:
        """Return True if there is a terminal."""
        return self._stream is not None

    def show(self, text: str) -> None:
        """Replace the line, cut to the width of the terminal."""
        with self._lock:
            if self._stream is not None and text != self._text:
                self._text = text
                width = shutil.get_terminal_size().columns - 1
                self._write(_CLEAR + printable(redact(text))[:width])

    def clear(self) -> None:
        """Erase the line."""
        with self._lock:
            if self._text:
                self._text = ""
                self._write(_CLEAR)

    def _write(self, text: str) -> None:
        assert self._stream is not None
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the terminal is gone
            self._stream = None


@contextmanager
def terminal_line() -> Iterator[TerminalLine]:
    """Yield the line on stderr. A log line erases it first, and so does the end of the block."""
    line = TerminalLine(sys.stderr)

    def erase(_record: logging.LogRecord) -> bool:
        line.clear()
        return True

    handlers = list(logging.getLogger().handlers) if line.is_shown else []
    for handler in handlers:
        handler.addFilter(erase)
    try:
        yield line
    finally:
        for handler in handlers:
            handler.removeFilter(erase)
        line.clear()
