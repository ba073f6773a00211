"""The listeners that an SSH server keeps for one of our connections.

Owns the requests to listen and to cancel (RFC 4254 section 7.1). Input: an address and the callback for its clients.
Output: `RemoteListener`s, or ListenRefusedError with the server's debug messages. How servers differ:
- A refusal carries no reason. OpenSSH sends a debug message before it if forwarding is off, and at login the options of
  the key (errors/forwarding.py).
- OpenSSH with `GatewayPorts yes` listens on every interface, whatever the request; a debug message says so. With `no`
  it listens on loopback only, and no message says so.
- Dropbear refuses to cancel: its port stays bound until the connection ends. A closed listener of it is kept here,
  accepts no clients, and is reused when the same address is requested.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncssh

from reconciler.core.rules.origin import UNIX, Origin, tcp_origin
from reconciler.core.spec import Endpoint, RemoteTcp, RemoteUnix
from reconciler.ssh.channels.channel import Channel
from reconciler.ssh.channels.handler import ChannelHandler
from reconciler.ssh.channels.messages import Forward, ForwardedTcp, ForwardedUnix, OpenError
from reconciler.ssh.channels.mux import Refusal
from reconciler.ssh.errors.forwarding import ServerFacts
from reconciler.ssh.internals.packets import PacketDecodeError
from reconciler.system.redaction import redact

PORT_MAX = 65535
_DEBUG_MESSAGES_MAX = 32  # debug messages kept for one request: a server may send any number
_MESSAGE_MAX = 1024  # characters of each

_LISTENS_EVERYWHERE = re.compile(r'listen address "([^"]*)" overridden by server GatewayPorts')

log = logging.getLogger(__name__)

Accept = Callable[[Channel, Origin], ChannelHandler | Refusal]  # serves a client, or refuses it


class ListenRefusedError(asyncssh.ChannelListenError):
    """The server refuses to listen.

    debug_text   its debug messages during the request, which may give the reason
    answer_text  the text of its answer, if it has one
    server       what it said at login
    """

    def __init__(self, debug_text: str, answer_text: str, server: ServerFacts) -> None:
        super().__init__("the server refuses to listen")
        self.server = server
        self.debug_text = debug_text
        self.answer_text = answer_text


@dataclass(slots=True, eq=False)
class RemoteListener:
    """A listener on the server.

    listen    the address that was requested
    accept    serves its clients, which are refused while this is None
    listener  asyncssh's listener
    address   the address that the server listens on
    is_open   it was requested, and is not closed yet
    """

    listen: RemoteTcp | RemoteUnix
    accept: Accept | None
    listener: asyncssh.SSHListener | None = None
    address: str = ""
    is_open: bool = False

    def take(self, channel: Channel, origin: Origin) -> ChannelHandler | Refusal:
        if self.accept is None:
            return Refusal(OpenError.CONNECT_FAILED, "the listener is closed")
        try:
            return self.accept(channel, origin)
        except Exception:  # it would end the whole connection, with all clients on it
            log.exception("internal error while a client on the server connected: please report it")
            return Refusal(OpenError.CONNECT_FAILED, "internal error")


class RemoteListeners:
    """The listeners of one connection. `cancels`: False if the server does not stop listening before the end."""

    def __init__(self, connection: asyncssh.SSHClientConnection, server: ServerFacts) -> None:
        self._connection = connection
        self._server = server
        self.cancels = not server.is_dropbear
        self._by_address: dict[tuple[str, int] | str, RemoteListener] = {}  # as the server names them in requests
        self._closed: dict[RemoteTcp | RemoteUnix, RemoteListener] = {}  # for reuse, if the server does not cancel
        self._recordings: list[list[str]] = []  # the debug messages during each running request
        self._answer_text = ""
        self._alone = asyncio.Lock()

    def debug_message(self, message: str) -> None:
        """Record a debug message of the server for the running requests."""
        for messages in self._recordings:
            if len(messages) < _DEBUG_MESSAGES_MAX:
                messages.append(redact(message)[:_MESSAGE_MAX])

    def refused(self, text: str) -> None:
        """Record the text of a refusal. RFC 4254 defines no such field, but some servers send one."""
        self._answer_text = redact(text)[:_MESSAGE_MAX]

    def offer(self, channel: Channel, what: Forward) -> ChannelHandler | Refusal:
        """Serve a client for which the server asks for a channel, or refuse it."""
        origin: Origin = UNIX
        forward: RemoteListener | None = None
        match what:
            case ForwardedTcp(host, port, origin_host, origin_port):
                origin = tcp_origin(origin_host, origin_port)
                # Some servers name port 0 for a listener whose port they assigned (asyncssh has the same fallback).
                forward = self._by_address.get((host.lower(), port)) or self._by_address.get((host.lower(), 0))
            case ForwardedUnix(path):
                forward = self._by_address.get(path)
            case _:
                pass
        if forward is None:
            return Refusal(OpenError.CONNECT_FAILED, "no such listener")
        return forward.take(channel, origin)

    async def listen(self, listen: RemoteTcp | RemoteUnix, accept: Accept) -> RemoteListener:
        """Ask the server to listen. Raises ListenRefusedError; asyncssh.Error if the connection is lost."""
        forward = self._closed.pop(listen, None)
        if forward is not None:
            forward.accept = accept
        else:
            forward = await self._ask(listen, accept)
        forward.is_open = True
        return forward

    async def close(self, forward: RemoteListener) -> None:
        """Accept no more clients, and have the server stop listening if it supports that."""
        forward.accept = None
        if not forward.is_open:
            return
        if not self.cancels:
            self._closed[forward.listen] = forward
        elif forward.listener is not None:
            forward.listener.close()
            await forward.listener.wait_closed()
            self._by_address = {key: one for key, one in self._by_address.items() if one is not forward}
        forward.is_open = False  # last: a close that raised can be repeated

    async def _ask(self, listen: RemoteTcp | RemoteUnix, accept: Accept) -> RemoteListener:
        forward = RemoteListener(listen, accept)
        try:
            messages = await self._request(forward)
        except ListenRefusedError:
            # Several requests may be running. Repeated alone, the debug messages belong to this one.
            async with self._alone:
                messages = await self._request(forward)
        forward.address = _address(forward, messages)
        return forward

    async def _request(self, forward: RemoteListener) -> list[str]:
        messages = list[str]()
        self._answer_text = ""
        self._recordings.append(messages)
        key = _key(forward.listen)
        before = self._by_address.get(key)
        self._by_address[key] = forward  # a client may connect before the answer is handled
        try:
            match forward.listen:
                case RemoteTcp() as listen:
                    forward.listener = await self._connection.create_server(_unused, listen.host, listen.port)
                case RemoteUnix() as listen:
                    forward.listener = await self._connection.create_unix_server(_unused, listen.path)
        except BaseException as error:
            if before is None:
                self._by_address.pop(key, None)
            else:
                self._by_address[key] = before
            if isinstance(error, PacketDecodeError):
                raise asyncssh.ProtocolError("its answer to a request to listen cannot be decoded") from None
            if not isinstance(error, asyncssh.ChannelListenError):
                raise
            # A connection that is ending refuses, too. Its end is reported in this iteration and cancels the caller.
            await asyncio.sleep(0)
            raise ListenRefusedError("\n".join(messages), self._answer_text, self._server) from None
        finally:
            self._recordings = [other for other in self._recordings if other is not messages]
        if (port := forward.listener.get_port()) > PORT_MAX:
            raise asyncssh.ProtocolError(f"it reports port {port} for a listener: expected at most {PORT_MAX}")
        if isinstance(forward.listen, RemoteTcp):
            self._by_address[forward.listen.host.lower(), port] = forward
        return messages


def _address(forward: RemoteListener, messages: list[str]) -> str:
    listen = forward.listen
    if isinstance(listen, RemoteUnix):
        return listen.path
    everywhere = {match[1] for message in messages if (match := _LISTENS_EVERYWHERE.search(message))}
    port = forward.listener.get_port() if forward.listener is not None else listen.port
    return str(Endpoint("*" if listen.host in everywhere else listen.host, port))


def _key(listen: RemoteTcp | RemoteUnix) -> tuple[str, int] | str:
    return (listen.host.lower(), listen.port) if isinstance(listen, RemoteTcp) else listen.path


def _unused(*_: object) -> Any:
    """Not called: the packets that open channels for listeners do not reach asyncssh."""
    raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "no such listener")
