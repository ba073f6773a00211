"""Maps the kinds of tunnel to the way that a client's destination is dialled.

A kind of tunnel consists of a listener (`listeners/` here, `RemoteListeners` on the server), for some kinds a
handshake, and a way to dial, which is defined here. A new kind is a dataclass in the `Route` union of
core/spec.py; `assert_never` then makes the type checker name each place to complete.
"""

from __future__ import annotations

import asyncio
import socket
from typing import assert_never

from reconciler.core.spec import Endpoint, FarTcp, FarUnix, NearTcp, NearUnix, Route, Socks
from reconciler.system import tcp

_QUEUE_FULL_PAUSE = 0.02  # seconds


def remote_destination(route: Route, requested: FarTcp | None) -> FarTcp | FarUnix:
    """Return the destination of a channel. `requested`: the destination that a SOCKS client named, else None."""
    match route:
        case FarTcp() | FarUnix():
            return route
        case Socks():
            if requested is None:
                raise AssertionError("a SOCKS destination is dialled only after the handshake")
            return requested
        case NearTcp() | NearUnix():
            raise AssertionError("the destination of a remote forward is dialled from here, not through a channel")
        case _:
            assert_never(route)


async def dial_local(route: Route, dial_timeout: float) -> socket.socket:
    """Return a socket that is connected to a remote forward's destination, non-blocking.

    Raises OSError; TimeoutError after `dial_timeout` seconds.
    """
    async with asyncio.timeout(dial_timeout):
        match route:
            case NearTcp():
                return await tcp.connect(Endpoint(route.host, route.port), is_client=True)
            case NearUnix():
                return await _connected(route.path)
            case FarTcp() | FarUnix() | Socks():
                raise AssertionError("the destination of a local or SOCKS tunnel is dialled through a channel")
            case _:
                assert_never(route)


async def _connected(path: str) -> socket.socket:
    """Return a socket that is connected to a unix path."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await _connect(sock, path)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(sock: socket.socket, path: str) -> None:
    """Connect, and retry while the server's accept queue is full.

    The kernel signals no event when the queue has room again. asyncio would treat the unconnected socket as connected.
    """
    while True:
        try:
            return sock.connect(path)
        except BlockingIOError:
            await asyncio.sleep(_QUEUE_FULL_PAUSE)
