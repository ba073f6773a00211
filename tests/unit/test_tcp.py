"""Listening and connecting: sockets that send at once, and errors with the number of the system."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket

import pytest

from reconciler.core.spec import Endpoint, LocalTcp
from reconciler.system import tcp
from reconciler.system.bind import bind
from support.wait import free_port

FILLING = 3  # more connections than the shortest accept queue holds

pytestmark = pytest.mark.each_loop


def sends_at_once(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_both_ends_of_a_connection_send_at_once(host: str) -> None:
    with contextlib.closing(await bind(LocalTcp("127.0.0.1", 0, 0))) as bound:
        [listener] = bound.sockets
        with await tcp.connect(Endpoint(host, listener.getsockname()[1])) as near:
            far, _ = await asyncio.get_running_loop().sock_accept(listener)
            with far:
                assert sends_at_once(near)
                assert sends_at_once(far)
                assert near.getpeername() == listener.getsockname()
                assert not near.getblocking()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_refused_connection_is_an_error_with_its_number(host: str) -> None:
    with pytest.raises(OSError) as refused:  # noqa: PT011 - the number is checked
        await tcp.connect(Endpoint(host, free_port()))
    assert refused.value.errno == errno.ECONNREFUSED


async def test_a_connection_that_takes_time_can_be_given_up() -> None:
    """The accept queue of the listener is full, so the kernel answers no further connection."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(FILLING):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(("127.0.0.1", port))
        connecting = asyncio.create_task(tcp.connect(Endpoint("127.0.0.1", port)))
        await asyncio.wait({connecting}, timeout=0.05)
        assert not connecting.done()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
