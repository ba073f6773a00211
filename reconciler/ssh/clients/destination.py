"""What tells the kinds of tunnel apart, in one place: route -> how a client's other end is reached.

A kind is an acceptor (where clients come in: `listen.py` here, `Link.listen` on the server), perhaps a handshake,
and a dialer (where they go). A new kind is a dataclass in the `Route` union of core/spec.py; `assert_never` then
makes the type checker name every place that must know it, and this file is the one for dialling.
"""

from __future__ import annotations

import asyncio
import socket
from typing import assert_never

from reconciler.core.descriptor_budget import ClientPlace
from reconciler.core.spec import Endpoint, FarTcp, FarUnix, NearTcp, NearUnix, Route, Socks
from reconciler.ssh.relay.client_transport import ClientTransport
from reconciler.system import tcp

_QUEUE_FULL_PAUSE = 0.02  # seconds


def remote_destination(route: Route, asked: FarTcp | None) -> FarTcp | FarUnix:
    """What to open a channel to. `asked` is what a SOCKS client named."""
    match route:
        case FarTcp() | FarUnix():
            return route
        case Socks():
            if asked is None:
                raise AssertionError("a SOCKS client is dialled for only after its handshake")
            return asked
        case NearTcp() | NearUnix():
            raise AssertionError("a remote tunnel's clients come from the far side")
        case _:
            assert_never(route)


async def dial_local(route: Route, within: float, place: ClientPlace | None = None) -> ClientTransport:
    """Connect to a remote tunnel's destination from here. Raises OSError; TimeoutError after `within` seconds.

    `place`: the socket's place in the budget of descriptors, which it gives back when it is closed.
    """
    loop = asyncio.get_running_loop()
    near = ClientTransport(lambda _: None, place)
    async with asyncio.timeout(within):
        match route:
            case NearTcp():
                sock = await tcp.connect(Endpoint(route.host, route.port), is_client=True)
                await loop.create_connection(lambda: near, sock=sock)
            case NearUnix():
                await loop.create_unix_connection(lambda: near, sock=await _connected(route.path))
            case FarTcp() | FarUnix() | Socks():
                raise AssertionError("a local tunnel's clients go to the far side")
            case _:
                assert_never(route)
    return near


async def _connected(path: str) -> socket.socket:
    """A socket that is connected to a path."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await _connect(sock, path)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(sock: socket.socket, path: str) -> None:
    """Wait for room in its queue. Nothing tells when there is some, and where it is full asyncio would take a socket
    that is not connected for one that is.
    """
    while True:
        try:
            return sock.connect(path)
        except BlockingIOError:
            await asyncio.sleep(_QUEUE_FULL_PAUSE)
