"""Acknowledges at once what a TCP socket received, if its peer waits for that.

sshd leaves Nagle's algorithm on for a connection without a session: it holds a small packet back until the one before
is acknowledged. What is sent in answer carries an acknowledgement. Without an answer Linux waits 40 ms for one, and so
does the packet: the second of two small writes of a database, or the first bytes of a client of a remote tunnel.

So a wait of that length is taken for the algorithm's, and what follows is acknowledged at once, as long as that brings
more bytes before anything is sent. No timer: one that is about to end makes each wait for events slower.
"""

from __future__ import annotations

import socket
from typing import Protocol

WAIT = 0.03  # seconds: less than Linux waits at least
EAGER = 16  # acknowledgements in a row that may bring nothing

# Linux only. It is no lasting option: each call sends the acknowledgement that is due.
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class Socket(Protocol):
    """What is used of a socket, or of a transport's."""

    @property
    def family(self) -> int: ...
    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


class PromptAcks:
    """The acknowledgements of one socket.

    is_due  bytes have arrived, and nothing was sent since; set by `arrived`, to be cleared when anything is sent
    eager   how many acknowledgements are sent at once from now on
    """

    def __init__(self, sock: Socket) -> None:
        self.is_due = False
        self.eager = 0
        self._sock = sock
        self._arrived_at = 0.0
        self._is_able = _QUICKACK is not None and sock.family != socket.AF_UNIX

    def arrived(self, now: float) -> None:
        """Note that bytes have arrived at `now` (seconds)."""
        if self.is_due and self._is_able and (self.eager or now - self._arrived_at >= WAIT):
            self.eager = EAGER
        self.is_due, self._arrived_at = True, now

    def acknowledge(self) -> None:
        """Acknowledge what has arrived. Call it after the bytes were processed, if `is_due` and `eager`."""
        self.eager -= 1
        try:
            self._sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK or 0, 1)
        except OSError:  # the connection has ended
            self.eager, self._is_able = 0, False
