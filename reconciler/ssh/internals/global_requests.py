"""The requests of this side for the whole connection, and their answers (RFC 4254 section 4).

Servers answer in the order of the requests, but not all of them do so with a reply. Some send SSH_MSG_UNIMPLEMENTED,
which names the sequence number of a packet (RFC 4253 section 11.4). Some send no answer to a request that they do not
know, or one answer too many. asyncssh waits for a missing answer, and ends the connection because of an extra one. So
`GlobalRequests` takes its place, also for asyncssh's own requests, which are the keepalives.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, cast

import asyncssh
from asyncssh.constants import MSG_GLOBAL_REQUEST, MSG_REQUEST_FAILURE, MSG_REQUEST_SUCCESS

from reconciler.ssh.internals.codec_aead import SEQ_MASK
from reconciler.ssh.internals.packets import Boolean, PacketDecodeError, SSHPacket, String
from reconciler.ssh.internals.seam import Seam

SEAMS = (
    Seam(asyncssh.SSHClientConnection, "_make_global_request", "self request args"),
    Seam(asyncssh.SSHClientConnection, "_send_seq"),
    Seam(asyncssh.SSHClientConnection, "send_packet", "self pkttype args handler"),
)
_SEQ_HALF = 1 << 31


class Outcome(Enum):
    """How a request ended."""

    ACCEPTED = auto()
    REFUSED = auto()
    UNSUPPORTED = auto()  # the server does not know requests of this kind
    LOST = auto()  # the connection has ended


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request ended, and the data of the reply."""

    outcome: Outcome
    data: bytes = b""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request without an answer.

    number   the sequence number of its packet, None until the packet is sent
    sent_at  when that was (loop time)
    """

    future: asyncio.Future[Answer]
    number: int | None = None
    sent_at: float = 0.0


class GlobalRequests:
    """The requests of one connection. Installs itself in it."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection = cast("Any", connection)  # asyncssh has no public access to what is replaced below
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Waiting] = deque()
        self._ended = False
        # When the server last sent anything (loop time); set by the owner of the connection.
        self.last_heard: Callable[[], float] = lambda: 0.0
        self.answered = 0  # requests that the server has answered
        self.round_trip: float | None = None  # seconds from the latest answered request to its answer
        self._connection._make_global_request = self._make  # noqa: SLF001 - asyncssh calls it by this name

    def send(self, name: bytes, *fields: bytes) -> asyncio.Future[Answer]:
        """Send a request. The future gets a result in any case, and may be cancelled."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        if self._ended:
            future.set_result(Answer(Outcome.LOST))
            return future
        self._waiting.append(_Waiting(future))
        self._connection.send_packet(MSG_GLOBAL_REQUEST, String(name), Boolean(True), *fields)
        return future

    def ping(self) -> asyncio.Future[Answer]:
        """Send a request that shows whether the server answers. asyncssh sends one at its keepalive interval only."""
        return self.send(b"keepalive@openssh.com")

    async def _make(self, request: bytes, *args: bytes) -> tuple[int, SSHPacket]:
        reply = await self.send(request, *args)
        kind = MSG_REQUEST_SUCCESS if reply.outcome is Outcome.ACCEPTED else MSG_REQUEST_FAILURE
        return kind, SSHPacket(reply.data)

    def give_up(self, request: asyncio.Future[Answer]) -> None:
        """Stop waiting for this request and those before it, if the server has sent anything since it was sent."""
        if any(one.future is request and one.sent_at < self.last_heard() for one in self._waiting):
            while not request.done():
                self._end(self._waiting.popleft(), Outcome.UNSUPPORTED)

    def end(self) -> None:
        """End all requests: the connection has ended."""
        self._ended = True
        while self._waiting:
            self._end(self._waiting.popleft(), Outcome.LOST)

    # --- calls of the guard, for packets --------------------------------------------------------------------------

    def sent(self) -> None:
        """Note that a request was sent just now: the first one without a number. A key exchange may delay requests."""
        waiting = next((one for one in self._waiting if one.number is None), None)
        if waiting is not None:
            waiting.sent_at = self._loop.time()
            waiting.number = (self._connection._send_seq - 1) & SEQ_MASK  # noqa: SLF001 - as above

    def replied(self, kind: int, data: bytes) -> bool:
        """Return False if no request waits for this reply."""
        if not self._waiting or self._waiting[0].number is None:
            return False
        outcome = Outcome.ACCEPTED if kind == MSG_REQUEST_SUCCESS else Outcome.REFUSED
        self._answered(self._waiting.popleft(), outcome, data)
        return True

    def unimplemented(self, packet: SSHPacket) -> None:
        """End the request that the server does not know.

        tinyssh names the number after that of the request. So a number that belongs to no request ends the oldest
        request that was sent before it.
        """
        sent = [one for one in self._waiting if one.number is not None]
        try:
            number = packet.get_uint32()
        except PacketDecodeError:
            found = sent[:1]
        else:
            found = [one for one in sent if one.number == number] or [one for one in sent if _precedes(one, number)]
        if found:
            self._waiting.remove(found[0])
            self._answered(found[0], Outcome.UNSUPPORTED)

    def _answered(self, waiting: _Waiting, outcome: Outcome, data: bytes = b"") -> None:
        self.answered += 1
        self.round_trip = self._loop.time() - waiting.sent_at
        self._end(waiting, outcome, data)

    @staticmethod
    def _end(waiting: _Waiting, outcome: Outcome, data: bytes = b"") -> None:
        if not waiting.future.done():
            waiting.future.set_result(Answer(outcome, data))


def _precedes(waiting: _Waiting, number: int) -> bool:
    return waiting.number is not None and 0 < (number - waiting.number) & SEQ_MASK < _SEQ_HALF
