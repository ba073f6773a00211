"""How much of what arrives on an SSH connection is parsed at once.

asyncssh parses all that it has before it returns. A server that sends small packets without pause held the event loop
for 0.6 to 1 s at a time (measured), and with it every other link. Here all connections of a loop share `TURN` seconds
of each turn of the loop. A connection that has more than that to parse waits for the next turn, and its socket is not
read meanwhile, so that it keeps one read and one packet at most.

In: bytes from the transport. Out: the same bytes, in order, to asyncssh's `data_received`.

Connections through a jump host: the transport of the inner one is a channel of the outer one. While the inner one
waits, the outer one does too, so that nothing accumulates in that channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import asyncssh

TURN = 0.004  # seconds of one turn of the loop for parsing, of all connections that waited for it together
QUANTUM = 0.001  # seconds for one connection, while others wait
SPENT_MAX = 2 * TURN  # the most with those that did not wait: what has little to parse is not kept behind the others
PIECE = 64 << 10  # bytes handed over at once: asyncssh copies what is left for each packet that it takes off
KEPT_MAX = 512 << 10  # bytes: more than asyncio reads at once and an incomplete packet together
WRITE_MAX = 16 << 20  # bytes that are not sent yet, beyond which nothing is parsed that could ask for another answer
RETRY = 0.02  # seconds until the unsent answers are looked at again


class ParseBudget:
    """Stands between the transport of one connection and asyncssh. Installs itself in the connection."""

    def __init__(self, connection: asyncssh.SSHClientConnection, below: ParseBudget | None = None) -> None:
        """`below`: of the jump host's connection that carries this one."""
        # Any: asyncssh shows neither its transport (a socket's, or a channel), nor what it has yet to parse
        # (`_inpbuf`), nor the method that begins with the next packet (`_recv_pkthdr`), where parsing can stop.
        self._connection: Any = connection
        self._below = below
        self._loop = asyncio.get_running_loop()
        self._turns = _turns.setdefault(self._loop, _Turns())
        self._receive = connection.data_received
        self._begin_packet = self._connection._recv_pkthdr  # noqa: SLF001 - as said
        self._end = 0.0  # of the time to parse in
        self._stopped = False  # before a packet, because the time was over
        self._paused = False
        self._held = False  # by the connection that this one carries
        self.working = False
        self.heard: Callable[[], None] = _nothing  # called when bytes arrive
        self.worked: Callable[[], None] = _nothing  # called when some have been parsed
        # asyncssh and the transport call these two by name. data_received is a method of asyncio's Protocol.
        connection._recv_pkthdr = self._next_packet  # type: ignore[method-assign]  # noqa: SLF001 - as said
        connection.data_received = self.data_received  # type: ignore[method-assign]

    def data_received(self, data: bytes, datatype: asyncssh.DataType = None) -> None:
        """Take what the transport read."""
        self.heard()
        self._turns.serve(self, data)

    def charge(self, seconds: float) -> None:
        """Count work that a packet causes later, in tasks, to the present turn."""
        self._end -= seconds
        self._turns.charge(seconds)

    def parse(self, data: bytes, end: float) -> None:
        """Parse this, and what was left over, until then (loop time)."""
        self._end = 0.0 if self._answers_unsent() else end
        self.working, self._stopped = True, False
        try:
            for start in range(0, len(data) or 1, PIECE):
                self._receive(data[start : start + PIECE])
        finally:
            self.working = False
            self.worked()
        if self._stopped:
            self._pause()
            if self._answers_unsent():
                self._loop.call_later(RETRY, self._turns.serve_later, self)
            elif not self._held:
                self._turns.serve_later(self)
        elif len(self._connection._inpbuf) > KEPT_MAX:  # noqa: SLF001 - as said
            self._pause()  # asyncssh waits for a task of its own, and then goes on by itself
        else:
            self._resume()

    def _next_packet(self) -> bool:
        """What asyncssh calls at the beginning of each packet. False: it does not go on."""
        if self._transport is None:  # the connection has ended; what came after is of no interest
            return False
        if self._held or self._loop.time() >= self._end:
            self._stopped = True
            if not self.working:  # asyncssh goes on after a task of its own
                self._turns.serve_later(self)
            return False
        return bool(self._begin_packet())

    @property
    def _transport(self) -> Any:
        return self._connection._transport  # noqa: SLF001 - as said

    def _answers_unsent(self) -> bool:
        """Whether the server asks without end and does not read the answers."""
        return self._transport is not None and self._transport.get_write_buffer_size() > WRITE_MAX

    # --- stopping the transport --------------------------------------------------------------------------------

    def _pause(self) -> None:
        if self._paused:
            return
        self._paused = True
        if self._below is not None:
            self._below.hold()
        elif self._transport is not None:
            self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._paused or self._held:
            return
        self._paused = False
        if self._below is not None:
            self._below.release()
        elif self._transport is not None:
            self._transport.resume_reading()

    def hold(self) -> None:
        """Parse nothing more for now: the connection that this one carries has enough."""
        self._held = True
        self._pause()

    def release(self) -> None:
        """Go on."""
        self._held = False
        if not self.working:
            self._turns.serve_later(self)


class _Turns:
    """The time of one loop for parsing: `TURN` seconds in each turn, one connection after the other.

    A callback in each turn would tell exactly when the next one begins, and cost a tenth of the throughput. So there is
    one only while connections wait. Else the time between two calls counts as time for others.
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
        """Let this connection parse what it has got now, as far as there is time and no other one waits."""
        now = asyncio.get_running_loop().time()
        if self._parsing:  # the bytes come through a jump host, whose time this is
            inbound.parse(data, now + TURN - self._spent)
            return
        self._spent = max(0.0, self._spent - (now - self._idle_since))
        left = TURN - self._spent
        if self._waiting:
            left = QUANTUM if inbound not in self._waiting and self._spent < SPENT_MAX else 0.0
        self._parse(inbound, data, now, left)

    def serve_later(self, inbound: ParseBudget) -> None:
        """Let this connection go on when it is its turn."""
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
        """A new turn of the loop has begun."""
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


def _nothing() -> None:
    pass


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()
