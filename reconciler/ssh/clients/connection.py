"""A client connection: one accepted client of a tunnel and its state, from accept to close.

The connector moves it from state to state, the registry lists it, the flows group it while it has a link. Bytes are
moved elsewhere, by its `relay`, which exists while it has a link.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from enum import IntEnum, auto
from typing import Protocol

from reconciler.core.observed import ClientInfo, ClientResult, FlowKey, SocketState
from reconciler.core.socks5 import Reply, reply
from reconciler.core.spec import TunnelSpec
from reconciler.ssh.link.link import Link
from reconciler.ssh.relay.client_socket import ClientSocket
from reconciler.ssh.relay.relay import Relay, Throttle

# Seconds that unsent bytes wait for a destination that sent EOF, on servers that do not report that it has gone.
DEAD_READER_TIMEOUT = 300.0


class ClientState(IntEnum):
    """The states of a client connection. An IntEnum, because members of other enums are hashed in Python code.

    HANDSHAKE   a SOCKS client has not named its destination yet
    HELD        it waits for a usable link, perhaps not at all
    OPENING     its channel is being opened, or the destination of a remote tunnel is being dialled
    RELAYING    bytes flow
    CLOSED      it has ended
    """

    HANDSHAKE = auto()
    HELD = auto()
    OPENING = auto()
    RELAYING = auto()
    CLOSED = auto()


_NEXT = {
    ClientState.HANDSHAKE: {ClientState.HELD, ClientState.CLOSED},
    ClientState.HELD: {ClientState.OPENING, ClientState.CLOSED},
    ClientState.OPENING: {ClientState.RELAYING, ClientState.HELD, ClientState.CLOSED},  # HELD: its link died
    ClientState.RELAYING: {ClientState.CLOSED},
    ClientState.CLOSED: set[ClientState](),
}


class _Handshake(Protocol):
    """A SOCKS handshake, as the connection sees it."""

    def cut(self) -> None:
        """End it now."""


class ConnectionRejected(Exception):  # noqa: N818 - a decision about a client, not an error
    """The client gets no channel.

    result   what it is counted as
    why      for the log; "" is not logged
    reply    bytes to send before closing; b"" closes with RST
    """

    def __init__(self, result: ClientResult, why: str = "", reply: bytes = b"") -> None:
        super().__init__(result)
        self.result = result
        self.why = why
        self.reply = reply


@dataclass(slots=True)
class ListenerClients:
    """A listening socket, here or on a server, and its clients that have no link yet."""

    state: SocketState
    waiting: set[ClientConnection] = field(default_factory=set)

    def still_leads_to(self, tunnel: TunnelSpec) -> bool:
        """Return True if the route is still that of `tunnel`: then a dial result applies to new clients, too."""
        return self.state.owner.route == tunnel.route


@dataclass(slots=True, eq=False)
class ClientConnection:
    """One client connection.

    id            unique in this process
    listener      the socket that accepted it
    socket        its socket; for a remote tunnel the socket of the destination, which is dialled here
    client        its origin and, after a SOCKS handshake, its request
    accepted      when it was accepted (monotonic); `since` is the same as Unix time
    task          runs while it waits: for a SOCKS login, a link, a refused client's last reply, a dial here
    handshake     its SOCKS handshake, until that ends
    link, relay   what carries its bytes, None without a link
    flow          the flow that it belongs to, or belonged to when it was cut; None without a link
    result        how its attempt to connect ended, None until then
    why           why it ended, "" until then, and if it never relayed
    audited       its opening was audited: then its end is, too, even if the policy has changed
    """

    id: int
    listener: ListenerClients
    socket: ClientSocket
    client: ClientInfo
    state: ClientState
    accepted: float = field(default_factory=time.monotonic)
    since: float = field(default_factory=time.time)
    task: asyncio.Task[None] | None = None
    handshake: _Handshake | None = None
    link: Link | None = None
    relay: Relay | None = None
    flow: FlowKey | None = None
    result: ClientResult | None = None
    why: str = ""
    audited: bool = False
    _tunnel: TunnelSpec | None = None

    def enter(self, state: ClientState) -> None:
        """Change the state. Raises AssertionError for a change that is not in the table."""
        assert state in _NEXT[self.state], f"a client connection cannot go from {self.state.name} to {state.name}"
        self.state = state

    @property
    def tunnel(self) -> TunnelSpec:
        """The tunnel that it belongs to, as last edited: the owner of its listener, until it has a link."""
        return self._tunnel or self.listener.state.owner

    @tunnel.setter
    def tunnel(self, tunnel: TunnelSpec) -> None:
        self._tunnel = tunnel

    def assign_link(self, tunnel: TunnelSpec, link: Link, relay: Relay) -> None:
        """Use a link from now on, for the destination that `tunnel` has now."""
        self._tunnel, self.link, self.relay = tunnel, link, relay
        self.flow = FlowKey(tunnel.id, self.listener.state.key.listen, tunnel.route, link.number)

    def drop_link(self) -> None:
        """Return to the owner of its listener: the link died."""
        self._tunnel = self.link = self.relay = self.flow = None

    # --- what is reported --------------------------------------------------------------------------------------

    @property
    def origin(self) -> str:
        """Its origin as text, "" for a client of a unix socket."""
        return str(self.client.origin)

    @property
    def user(self) -> str:
        """The name of its SOCKS user, "" without a login."""
        return self.client.user.name if self.client.user is not None else ""

    @property
    def to(self) -> str:
        """Its destination as text."""
        return str(self.client.requested or (self.flow.route if self.flow is not None else self.tunnel.route))

    @property
    def sent(self) -> int:
        """Bytes towards the SSH server."""
        return self.relay.sent if self.relay is not None else 0

    @property
    def received(self) -> int:
        """Bytes from the SSH server."""
        return self.relay.received if self.relay is not None else 0

    # --- what is done to it ------------------------------------------------------------------------------------

    def reply(self, code: Reply) -> bytes:
        """Return the bytes that tell its SOCKS client the result of its request, b"" if it made none."""
        return reply(code) if self.client.requested is not None else b""

    def throttle(self, up: Throttle | None, down: Throttle | None) -> None:
        """Set the bandwidth limits."""
        if self.relay is not None:
            self.relay.throttle(up, down)

    def cut(self, why: str) -> None:
        """End it now. A destination that is being dialled is not interrupted."""
        if self.relay is not None:
            self.relay.cut(why)
        elif self.task is not None:
            self.task.cancel()
        elif self.handshake is not None:
            self.handshake.cut()

    def overdue(self, now: float) -> str:
        """Return why it has been without traffic for too long at `now` (loop time), "" if it has not."""
        if self.relay is None or self.link is None:
            return ""
        if (
            self.relay.has_no_reader
            and not self.link.closes_dead_channels
            and self.relay.idle_for(now) >= DEAD_READER_TIMEOUT
        ):
            return "the destination stopped reading"
        idle_timeout = self.tunnel.policy.idle_timeout
        return "idle timeout" if idle_timeout and self.relay.idle_for(now) >= idle_timeout else ""
