"""The listeners that an SSH server keeps for one connection of ours.

Owns the requests to listen and to cancel (RFC 4254 section 7.1). In: an address, and who takes its clients. Out:
`RemoteListener`s, or ListenRefusedError with what the server said. How servers differ:
- A refusal carries no reason. OpenSSH sends a debug message before it where forwarding is off.
- OpenSSH with `GatewayPorts yes` listens on every interface, whatever was asked; a debug message tells that, too. With
  `no` it listens on loopback only, and nothing tells.
- Dropbear refuses to cancel, and its port stays bound until the connection ends. Its listeners are kept here when they
  are closed, let nobody in, and are taken up again when the same address is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncssh
from asyncssh.packet import PacketDecodeError

from reconciler.core.rules.origin import UNIX, Origin, tcp_origin
from reconciler.core.spec import Endpoint, RemoteTcp, RemoteUnix
from reconciler.system.redaction import redact

# Receive window in bytes that a listener's clients begin with: asyncssh has one for all of them, and it is the server
# that says how many there are. With its first data each gets one of the link's budget.
WINDOW = 256 << 10
PORT_MAX = 65535
_HEARD_MAX = 32  # debug messages kept for one request: a server may send any number
_MESSAGE_MAX = 1024  # characters of each

_WIDENED = re.compile(r'listen address "([^"]*)" overridden by server GatewayPorts')

log = logging.getLogger(__name__)

Accept = Callable[[Origin], Awaitable[asyncssh.SSHTCPSession[bytes]]]


class ListenRefusedError(asyncssh.ChannelListenError):
    """The server will not listen. `said`: its debug messages meanwhile, which may tell why; `why`: its answer's text,
    if it has one.
    """

    def __init__(self, said: str, why: str = "") -> None:
        super().__init__("the server refuses to listen")
        self.said = said
        self.why = why


@dataclass(slots=True, eq=False)
class RemoteListener:
    """A listener on the server, at `address`. While `accept` is None nobody is let in."""

    address: str
    accept: Accept | None
    listener: asyncssh.SSHListener | None = None

    async def take(self, origin: Origin) -> asyncssh.SSHTCPSession[bytes]:
        if self.accept is None:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "nobody listens here any more")
        try:
            return await self.accept(origin)
        except (asyncssh.ChannelOpenError, OSError):
            raise
        except Exception as error:
            # asyncssh would end the whole connection, with all the clients on it.
            log.exception("a fault of this program while a client on the server connected; please report it")
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "internal error") from error


class RemoteListeners:
    """See the module."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection = connection
        self.cancels = "dropbear" not in str(connection.get_extra_info("server_version", "")).lower()
        self._closed: dict[RemoteTcp | RemoteUnix, RemoteListener] = {}  # where the server does not cancel
        self._listening: dict[RemoteListener, RemoteTcp | RemoteUnix] = {}
        self._hearing: list[list[str]] = []  # for each request under way, what the server says meanwhile
        self._why = ""
        self._asking_why = asyncio.Lock()

    def heard(self, message: str) -> None:
        """A debug message of the server."""
        for said in self._hearing:
            if len(said) < _HEARD_MAX:
                said.append(redact(message)[:_MESSAGE_MAX])

    def refused(self, why: str) -> None:
        """The server gave a reason for refusing a request, which RFC 4254 has no place for."""
        self._why = redact(why)[:_MESSAGE_MAX]

    async def listen(self, listen: RemoteTcp | RemoteUnix, accept: Accept) -> RemoteListener:
        """Ask the server to listen. Raises ListenRefusedError; asyncssh.Error if the connection is lost."""
        forward = self._closed.pop(listen, None)
        if forward is not None:
            forward.accept = accept
        else:
            forward = await self._ask(listen, accept)
        self._listening[forward] = listen
        return forward

    async def close(self, forward: RemoteListener) -> None:
        """Let nobody in any more and, where the server does that, have it stop listening."""
        forward.accept = None
        listen = self._listening.get(forward)
        if listen is None:
            return  # it is closed already
        if not self.cancels:
            self._closed[listen] = forward
        elif forward.listener is not None:
            forward.listener.close()
            await forward.listener.wait_closed()
        self._listening.pop(forward, None)  # last: a close that raised can be asked for again

    async def _ask(self, listen: RemoteTcp | RemoteUnix, accept: Accept) -> RemoteListener:
        forward = RemoteListener("", accept)
        try:
            said = await self._request(listen, forward)
        except ListenRefusedError:
            # Many may be under way at once. Asked again alone, what the server says is about this one.
            async with self._asking_why:
                said = await self._request(listen, forward)
        forward.address = _address(listen, forward, said)
        return forward

    async def _request(self, listen: RemoteTcp | RemoteUnix, forward: RemoteListener) -> list[str]:
        said = list[str]()
        self._why = ""
        self._hearing.append(said)
        try:
            match listen:
                case RemoteTcp():
                    forward.listener = await self._connection.create_server(
                        lambda host, port: forward.take(tcp_origin(host, port)), listen.host, listen.port, window=WINDOW
                    )
                case RemoteUnix():
                    forward.listener = await self._connection.create_unix_server(
                        lambda: forward.take(UNIX), listen.path, window=WINDOW
                    )
        except asyncssh.ChannelListenError:
            # A connection that is ending refuses too. Its end is heard of in this turn, and whoever asks is cancelled.
            await asyncio.sleep(0)
            raise ListenRefusedError("\n".join(said), self._why) from None
        except PacketDecodeError:
            raise asyncssh.ProtocolError("its answer to a request to listen cannot be decoded") from None
        finally:
            self._hearing = [one for one in self._hearing if one is not said]
        if (port := forward.listener.get_port()) > PORT_MAX:
            raise asyncssh.ProtocolError(f"it says that it listens on port {port}")
        return said


def _address(listen: RemoteTcp | RemoteUnix, forward: RemoteListener, said: list[str]) -> str:
    if isinstance(listen, RemoteUnix):
        return listen.path
    widened = {match[1] for message in said if (match := _WIDENED.search(message))}
    port = forward.listener.get_port() if forward.listener is not None else listen.port
    return str(Endpoint("*" if listen.host in widened else listen.host, port))
