"""The listeners that an SSH server keeps for one of our connections.

Owns the requests to listen and to cancel (RFC 4254 section 7.1). Input: an address and the callback for its clients.
Output: `RemoteListener`s, or ListenRefusedError with what the server says about it. How servers differ:
- A refusal carries no reason. OpenSSH sends a debug message before it if forwarding is off, and at login the options of
  the key (errors/forwarding.py). Others add a text to it.
- A server without remote forwards answers SSH_MSG_UNIMPLEMENTED, a refusal, or nothing.
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
from dataclasses import dataclass, replace

import asyncssh

from reconciler.core.rules.origin import UNIX, Origin, tcp_origin
from reconciler.core.spec import Endpoint, RemoteTcp, RemoteUnix
from reconciler.ssh.channels.channel import Channel
from reconciler.ssh.channels.handler import ChannelHandler
from reconciler.ssh.channels.messages import Forward, ForwardedTcp, ForwardedUnix, OpenError
from reconciler.ssh.channels.mux import Refusal
from reconciler.ssh.errors.forwarding import ServerFacts
from reconciler.ssh.internals.global_requests import Answer, GlobalRequests, Outcome
from reconciler.ssh.internals.packets import String, UInt32
from reconciler.system.redaction import redact

PORT_MAX = 65535
_DEBUG_MESSAGES_MAX = 32  # debug messages kept for one request: a server may send any number
_MESSAGE_MAX = 1024  # characters of each

_LISTENS_EVERYWHERE = re.compile(r'listen address "([^"]*)" overridden by server GatewayPorts')

log = logging.getLogger(__name__)

Accept = Callable[[Channel, Origin], ChannelHandler | Refusal]  # serves a client, or refuses it


class ListenRefusedError(asyncssh.ChannelListenError):
    """The server refuses to listen.

    debug_text    its debug messages during the request, which may give the reason
    answer_text   the text of its answer, if it has one
    server        what it said at login
    is_supported  False if it does not know the request
    """

    def __init__(self, debug_text: str, answer_text: str, server: ServerFacts, *, is_supported: bool = True) -> None:
        super().__init__("the server refuses to listen")
        self.server = server
        self.debug_text = debug_text
        self.answer_text = answer_text
        self.is_supported = is_supported


@dataclass(slots=True, eq=False)
class RemoteListener:
    """A listener on the server.

    listen              the address that was requested
    accept              serves its clients, which are refused while this is None
    bound               `listen`, with the port that the server chose
    listens_everywhere  the server says that it listens on every interface
    is_open             it was requested, and is not closed yet
    """

    listen: RemoteTcp | RemoteUnix
    accept: Accept | None
    bound: RemoteTcp | RemoteUnix
    listens_everywhere: bool = False
    is_open: bool = False

    @property
    def address(self) -> str:
        """The address that the server listens on, as text."""
        if isinstance(self.bound, RemoteUnix):
            return self.bound.path
        return str(Endpoint("*" if self.listens_everywhere else self.bound.host, self.bound.port))

    def take(self, channel: Channel, origin: Origin) -> ChannelHandler | Refusal:
        if self.accept is None:
            return Refusal(OpenError.CONNECT_FAILED, "the listener is closed")
        try:
            return self.accept(channel, origin)
        except Exception:  # it would end the whole connection, with all clients on it
            log.exception("internal error while a client on the server connected: please report it")
            return Refusal(OpenError.CONNECT_FAILED, "internal error")


class RemoteListeners:
    """The listeners of one connection.

    limit    returns the seconds for the answer to a request
    cancels  False if the server does not stop listening before the end
    """

    def __init__(self, server: ServerFacts, requests: GlobalRequests, limit: Callable[[], float]) -> None:
        self._server = server
        self._requests = requests
        self._limit = limit
        self.cancels = not server.is_dropbear
        self._by_address: dict[tuple[str, int] | str, RemoteListener] = {}  # as the server names them in requests
        self._closed: dict[RemoteTcp | RemoteUnix, RemoteListener] = {}  # for reuse, if the server does not cancel
        self._recordings: list[list[str]] = []  # the debug messages during each running request
        self._unanswered = set[RemoteTcp | RemoteUnix]()
        self._alone = asyncio.Lock()

    def debug_message(self, message: str) -> None:
        """Record a debug message of the server for the running requests."""
        for messages in self._recordings:
            if len(messages) < _DEBUG_MESSAGES_MAX:
                messages.append(redact(message)[:_MESSAGE_MAX])

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
        if self.cancels:
            reply = await self._requests.send(*_cancel(forward.bound))
            self.cancels = reply.outcome is not Outcome.UNSUPPORTED
        if self.cancels:
            self._by_address = {key: one for key, one in self._by_address.items() if one is not forward}
        else:
            self._closed[forward.listen] = forward
        forward.is_open = False

    async def _ask(self, listen: RemoteTcp | RemoteUnix, accept: Accept) -> RemoteListener:
        forward = RemoteListener(listen, accept, listen)
        was_unanswered = listen in self._unanswered
        try:
            messages = await self._request(forward)
        except ListenRefusedError as refused:
            if not refused.is_supported or refused.answer_text:
                raise
            # Several requests may be running. Repeated alone, the debug messages belong to this one.
            async with self._alone:
                if was_unanswered:
                    await self._requests.send(*_cancel(listen))  # the server may listen because of that request
                messages = await self._request(forward)
        forward.listens_everywhere = _listens_everywhere(listen, messages)
        return forward

    async def _request(self, forward: RemoteListener) -> list[str]:
        messages = list[str]()
        self._recordings.append(messages)
        key = _key(forward.listen)
        before = self._by_address.get(key)
        self._by_address[key] = forward  # a client may connect before the answer is handled
        try:
            reply = await self._answer(forward.listen)
            forward.bound = await _accepted(forward.listen, reply, messages, self._server)
        except BaseException:
            if before is None:
                self._by_address.pop(key, None)
            else:
                self._by_address[key] = before
            raise
        finally:
            self._recordings = [other for other in self._recordings if other is not messages]
        self._by_address[_key(forward.bound)] = forward
        return messages

    async def _answer(self, listen: RemoteTcp | RemoteUnix) -> Answer:
        """Ask the server to listen. Raises TimeoutError without an answer."""
        request = self._requests.send(*_forward(listen))
        self._unanswered.add(listen)  # also if this is cancelled
        await asyncio.wait({request}, timeout=self._limit())
        if not request.done():
            self._requests.give_up(request)
            raise TimeoutError(f"no answer within {self._limit():g} s")
        self._unanswered.discard(listen)
        return request.result()


async def _accepted(
    listen: RemoteTcp | RemoteUnix, reply: Answer, messages: list[str], server: ServerFacts
) -> RemoteTcp | RemoteUnix:
    """Return the address that the server listens on. What follows the port in a reply is ignored, as OpenSSH does."""
    match reply.outcome:
        case Outcome.ACCEPTED if isinstance(listen, RemoteTcp) and not listen.port:
            port = int.from_bytes(reply.data[:4]) if len(reply.data) >= 4 else 0
            if not port:
                raise asyncssh.ProtocolError("it names no port for a listener whose port it chooses")
            if port > PORT_MAX:
                raise asyncssh.ProtocolError(f"it reports port {port} for a listener: expected at most {PORT_MAX}")
            return replace(listen, port=port)
        case Outcome.ACCEPTED:
            return listen
        case Outcome.LOST:
            await asyncio.sleep(0)  # the end of the connection is reported in this iteration, and cancels the caller
            raise asyncssh.ConnectionLost("the connection has ended")
        case _:
            text = redact(_text(reply.data))[:_MESSAGE_MAX]
            supported = reply.outcome is Outcome.REFUSED
            raise ListenRefusedError("\n".join(messages), text, server, is_supported=supported)


def _text(data: bytes) -> str:
    """Return the text in a refusal, which RFC 4254 does not provide for: an SSH string, or plain bytes."""
    if len(data) >= 4 and int.from_bytes(data[:4]) <= len(data) - 4:
        data = data[4 : 4 + int.from_bytes(data[:4])]
    return data.decode("utf-8", "replace").strip("\0 \r\n\t")


def _forward(listen: RemoteTcp | RemoteUnix) -> tuple[bytes, ...]:
    """Return the name and the fields of the request to listen (RFC 4254 section 7.1, OpenSSH's PROTOCOL 2.4)."""
    if isinstance(listen, RemoteUnix):
        return b"streamlocal-forward@openssh.com", String(listen.path)
    return b"tcpip-forward", String(listen.host), UInt32(listen.port)


def _cancel(listen: RemoteTcp | RemoteUnix) -> tuple[bytes, ...]:
    """Return the name and the fields of the request to stop listening."""
    name, *fields = _forward(listen)
    return b"cancel-" + name, *fields


def _listens_everywhere(listen: RemoteTcp | RemoteUnix, messages: list[str]) -> bool:
    everywhere = {match[1] for message in messages if (match := _LISTENS_EVERYWHERE.search(message))}
    return isinstance(listen, RemoteTcp) and listen.host in everywhere


def _key(listen: RemoteTcp | RemoteUnix) -> tuple[str, int] | str:
    return (listen.host.lower(), listen.port) if isinstance(listen, RemoteTcp) else listen.path
