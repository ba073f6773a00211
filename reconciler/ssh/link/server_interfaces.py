"""Finds out on which interfaces a server listens for us. Its answer to a request for all interfaces does not say.

OpenSSH without GatewayPorts, and Dropbear without `-a`, listen on loopback whatever address is requested, and report
success. So another listener is requested, at an address that no machine has: it shows whether the address is used.
"""

from __future__ import annotations

from enum import Enum

import asyncssh

from reconciler.core.spec import FarTcp, RemoteTcp
from reconciler.ssh.channels.messages import OpenError
from reconciler.ssh.channels.mux import Refusal
from reconciler.ssh.link.link import Link
from reconciler.ssh.link.remote_listeners import ListenRefusedError

_NO_MACHINE = "192.0.2.1"  # RFC 5737


class Interfaces(Enum):
    """Where a server listens: on loopback only, on the requested address, or on all interfaces."""

    LOOPBACK = "loopback"
    REQUESTED = "requested"
    ALL = "all"


async def interfaces(link: Link) -> Interfaces | None:
    """Return where the server listens for this connection; None if that cannot be found out.

    A server without cancels keeps the listener until the connection ends. Raises OSError and asyncssh.Error.
    """
    server = link.dialled.server
    if not server.is_openssh and not server.is_dropbear:
        return None
    try:
        forward = await link.forwards.listen(RemoteTcp(link.target, _NO_MACHINE, 0), _refuse)
    except ListenRefusedError as refused:
        return None if refused.debug_text or server.is_dropbear else Interfaces.REQUESTED
    try:
        if forward.listens_everywhere:
            return Interfaces.ALL
        assert isinstance(forward.bound, RemoteTcp)
        return Interfaces.LOOPBACK if await _answers(link, forward.bound.port) else None
    finally:
        await link.forwards.close(forward)


async def _answers(link: Link, port: int) -> bool:
    """Return True if the server reaches the listener on its loopback: a system may bind addresses that it lacks."""
    try:
        (await link.open_stream(FarTcp(link.target, "127.0.0.1", port))).close()
    except (asyncssh.ChannelOpenError, TimeoutError):
        return False
    return True


def _refuse(*_: object) -> Refusal:
    return Refusal(OpenError.CONNECT_FAILED, "this listener is for no clients")
