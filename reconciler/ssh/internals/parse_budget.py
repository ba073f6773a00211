"""Limits how long asyncssh parses received data in one turn of the event loop.

asyncssh parses everything it has before it returns. A server that sent small packets without pause blocked the event
loop, and every other link, for 0.6 to 1 s at a time (measured). Here all connections of a loop share `TURN` seconds of
each turn. A connection with more to parse waits for the next turn, and its socket is not read meanwhile, so that it
keeps one read and one packet at most.

Input: bytes from the transport. Output: the same bytes, in order, to asyncssh's `data_received`.

With a jump host, the transport of the inner connection is a channel of the outer one. While the inner connection waits,
the outer one waits too, so that nothing accumulates in that channel.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import asyncssh

from reconciler.ssh.internals.seam import Seam

TURN = 0.004  # seconds of parsing in one turn of the loop, for all waiting connections together
QUANTUM = 0.001  # seconds for one connection, while others wait
SPENT_MAX = 2 * TURN  # limit with connections that did not wait: a short parse is not delayed by the others
PIECE = 64 << 10  # bytes passed on at once: asyncssh copies the rest for each packet that it removes
KEPT_MAX = 512 << 10  # bytes: more than one read of asyncio plus an incomplete packet
WRITE_MAX = 16 << 20  # unsent bytes beyond which nothing is parsed, because it could cause another answer
RETRY = 0.02  # seconds until the unsent answers are checked again

SEAMS = (
    Seam(asyncssh.SSHClientConnection, "data_received", "self data datatype"),
    Seam(asyncssh.SSHClientConnection, "_recv_pkthdr", "self"),
    Seam(asyncssh.SSHClientConnection, "_inpbuf"),
    Seam(asyncssh.SSHClientConnection, "_transport"),
)


class Reading(Protocol):
    """What reads the socket of a connection."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class ParseBudget:
    """The parse budget of one connection, between its transport and asyncssh. It installs itself in the connection."""

    def __init__(self, connection: asyncssh.SSHClientConnection, below: ParseBudget | None = None) -> None:
        """`below`: the budget of the jump host's connection that carries this one."""
        # Any: asyncssh has no public access to its transport (a socket or a channel), to the unparsed bytes
        # (`_inpbuf`), or to the method that starts the next packet (`_recv_pkthdr`), where parsing can stop.
        self._connection: Any = connection
        self._below = below
        self._loop = asyncio.get_running_loop()
        self._turns = _turns.setdefault(self._loop, _Turns())
        self._receive = connection.data_received
        self._begin_packet = self._connection._recv_pkthdr  # noqa: SLF001 - as above
        self._end = 0.0  # loop time until which it may parse
        self._stopped = False  # before a packet, because the time was used up
        self._paused = False
        self._held = False  # paused by the connection that this one carries
        self._working = False
        self._lifted = False
        self._reading: Reading | None = None
        # asyncssh and the transport call these two by name. data_received is a method of asyncio's Protocol.
        connection._recv_pkthdr = self._next_packet  # type: ignore[method-assign]  # noqa: SLF001 - as above
        connection.data_received = self.data_received  # type: ignore[method-assign]

    def data_received(self, data: bytes, datatype: asyncssh.DataType = None) -> None:
        """Accept what the transport read."""
        if self._lifted:
            self._receive(data, datatype)
        else:
            self._turns.serve(self, data)

    def lift(self, reading: Reading) -> None:
        """Limit nothing from now on: a packet path gives asyncssh one packet at a time, within its own limit.

        `reading`: reads the socket from now on.
        """
        self._lifted = True
        self._reading = reading
        if self._paused:
            reading.pause_reading()

    def charge(self, seconds: float) -> None:
        """Charge the present turn for work that a packet causes later, in tasks."""
        self._end -= seconds
        self._turns.charge(seconds)

    def parse(self, data: bytes, end: float) -> None:
        """Parse the rest and this data until `end` (loop time)."""
        self._end = 0.0 if self._answers_unsent() else end
        self._working, self._stopped = True, False
        try:
            for start in range(0, len(data) or 1, PIECE):
                self._receive(data[start : start + PIECE])
        finally:
            self._working = False
        if self._stopped:
            self._pause()
            if self._answers_unsent():
                self._loop.call_later(RETRY, self._turns.serve_later, self)
            elif not self._held:
                self._turns.serve_later(self)
        elif len(self._connection._inpbuf) > KEPT_MAX:  # noqa: SLF001 - as above
            self._pause()  # asyncssh waits for a task of its own, and continues by itself
        else:
            self._resume()

    def _next_packet(self) -> bool:
        """Called by asyncssh at the start of each packet. Return False to stop parsing."""
        if self._transport is None:  # the connection has ended; the rest is dropped
            return False
        if not self._lifted and (self._held or self._loop.time() >= self._end):
            self._stopped = True
            if not self._working:  # asyncssh continues after a task of its own
                self._turns.serve_later(self)
            return False
        return bool(self._begin_packet())

    @property
    def _transport(self) -> Any:
        return self._connection._transport  # noqa: SLF001 - as above

    def _answers_unsent(self) -> bool:
        """Return True if the server sends requests and does not read the answers."""
        return self._transport is not None and self._transport.get_write_buffer_size() > WRITE_MAX

    # --- stopping the transport --------------------------------------------------------------------------------

    def _pause(self) -> None:
        if self._paused:
            return
        self._paused = True
        if self._below is not None:
            self._below.hold()
        elif self._transport is not None:
            (self._reading or self._transport).pause_reading()

    def _resume(self) -> None:
        if not self._paused or self._held:
            return
        self._paused = False
        if self._below is not None:
            self._below.release()
        elif self._transport is not None:
            (self._reading or self._transport).resume_reading()

    def hold(self) -> None:
        """Stop parsing: the connection that this one carries has enough."""
        self._held = True
        self._pause()

    def release(self) -> None:
        """Continue parsing."""
        self._held = False
        if not self._working:
            self._turns.serve_later(self)


class _Turns:
    """Divides the parsing time of one loop: `TURN` seconds in each turn, one connection after the other.

    A callback in each turn would mark its start exactly, and cost a tenth of the throughput. So there is one only while
    connections wait. Otherwise the time between two calls counts as time for others.
    """

    def __init__(self) -> None:
        self._spent = 0.0
        self._charged = 0.0
        self._idle_since = 0.0
        self._parsing = False
        self._scheduled = False
        self._waiting: dict[ParseBudget, None] = {}  # an ordered set

    def charge(self, seconds: float) -> None:
        self._charged += seconds

    def serve(self, inbound: ParseBudget, data: bytes) -> None:
        """Let this connection parse now, within the time left and if no other one waits."""
        now = asyncio.get_running_loop().time()
        if self._parsing:  # the bytes come through a jump host, and use its time
            inbound.parse(data, now + TURN - self._spent)
            return
        self._spent = max(0.0, self._spent - (now - self._idle_since))
        left = TURN - self._spent
        if self._waiting:
            left = QUANTUM if inbound not in self._waiting and self._spent < SPENT_MAX else 0.0
        self._parse(inbound, data, now, left)

    def serve_later(self, inbound: ParseBudget) -> None:
        """Let this connection continue in its turn."""
        self._waiting[inbound] = None
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _parse(self, inbound: ParseBudget, data: bytes, now: float, seconds: float) -> None:
        self._parsing, self._charged = True, 0.0
        try:
            inbound.parse(data, now + seconds)
        finally:
            self._parsing = False
            self._idle_since = asyncio.get_running_loop().time()
            self._spent += self._idle_since - now + self._charged

    def _turn(self) -> None:
        """Serve the waiting connections in a new turn of the loop."""
        self._scheduled = False
        self._spent = 0.0
        waiting = list(self._waiting)
        seconds = QUANTUM if len(waiting) > 1 else TURN
        for inbound in waiting:
            if self._spent >= TURN:
                break
            del self._waiting[inbound]
            self._parse(inbound, b"", asyncio.get_running_loop().time(), seconds)
        if self._waiting:
            self._schedule()


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()
