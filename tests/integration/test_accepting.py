"""Accepting clients: a few in each iteration of the event loop, listeners in turn, and errors of accept."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.descriptor_budget import Budget
from reconciler.core.observed import Phase
from reconciler.core.rules.origin import Origin
from reconciler.ssh.clients import hold_queue
from reconciler.ssh.link import wake_queue
from reconciler.ssh.listeners import acceptor
from reconciler.ssh.listeners.acceptor import Acceptor, ReserveDescriptor
from reconciler.ssh.relay.client_socket import ClientSocket
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import Running, file, local, running, socks
from support.wait import WITHIN, eventually, free_port

CLIENTS = 40
NO_LOGIN = b"\x05\x01\x00"


class Listening:
    """A listening socket, its acceptor, and the clients that it accepted."""

    def __init__(self, sock: socket.socket, order: list[Listening]) -> None:
        self.sock = sock
        self.port = sock.getsockname()[1]
        self.accepted = 0
        self._order = order
        self.budget = Budget(10_000)
        sock.setblocking(False)
        self.acceptor = Acceptor(
            sock, ReserveDescriptor(), admit=self._admit, accepted=self._made, exhausted=lambda: None
        )

    def _admit(self, _origin: Origin) -> Any:
        self.accepted += 1
        self._order.append(self)
        return self.budget.take_client(self, "tunnel", "group")

    def _made(self, client: ClientSocket, _origin: Origin) -> None:
        client.reset()


@contextlib.asynccontextmanager
async def listening(*socks: socket.socket) -> AsyncIterator[list[Listening]]:
    order: list[Listening] = []
    all_of_them = [Listening(sock, order) for sock in socks]
    try:
        yield all_of_them
    finally:
        for one in all_of_them:
            if one.sock.fileno() >= 0:
                one.acceptor.close()
                one.sock.close()
        await eventually(lambda: all(one.budget.clients == 0 for one in all_of_them))


@contextlib.contextmanager
def clients(port: int, count: int) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        yield


def server() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=CLIENTS)


async def test_each_iteration_accepts_a_few_clients_and_listeners_take_turns() -> None:
    order: list[Listening] = []
    async with listening(server(), server(), server()) as three, contextlib.AsyncExitStack() as stack:
        for one in three:
            one._order = order
        for one in three[:2]:
            stack.enter_context(clients(one.port, CLIENTS))
        stack.enter_context(clients(three[2].port, 1))
        most = before = 0
        async with asyncio.timeout(WITHIN):
            while before < 2 * CLIENTS + 1:
                await asyncio.sleep(0)
                most, before = max(most, len(order) - before), len(order)
        assert most <= 2 * acceptor.AT_ONCE  # an iteration may start and end between two steps of this task
        assert order.index(three[2]) < 3 + acceptor.AT_ONCE
        halfway = order[: len(order) // 2]
        assert abs(halfway.count(three[0]) - halfway.count(three[1])) <= 3


class _Troubled(socket.socket):
    """A socket whose accept fails with each of these errors first."""

    errors: list[int]

    def acceptor(self) -> Any:
        if self.errors:
            raise OSError(self.errors.pop(0), "as the test wants it")
        return super().accept()


@pytest.mark.parametrize(
    "number",
    [errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EPERM, errno.EOPNOTSUPP, errno.ENOMEM],
)
async def test_an_accept_error_does_not_affect_other_clients(number: int, caplog: pytest.LogCaptureFixture) -> None:
    """accept(2): Linux reports network errors of the new connection; they are not faults of the program."""
    sock = _Troubled(fileno=server().detach())
    sock.errors = [number] * 2
    async with listening(sock) as (one,):
        with clients(one.port, 3):
            await eventually(lambda: one.accepted == 3)
    assert not caplog.records


async def test_a_listener_can_be_closed_while_its_clients_wait() -> None:
    async with listening(server(), server()) as (one, other):
        with clients(one.port, CLIENTS), clients(other.port, CLIENTS):
            await eventually(lambda: one.accepted > 0, every=0)
            one.acceptor.close()
            accepted = one.accepted
            one.sock.close()
            await eventually(lambda: other.accepted == CLIENTS)
            assert one.accepted == accepted < CLIENTS


async def test_each_iteration_continues_a_few_held_clients(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hold_queue, "HELD_CHECK", WITHIN)  # held clients also look for a link at each check
    port = free_port()
    async with running(tmp_path, file(sshd, local("one", port, echo.port, holdTimeout="5m"))) as tunnels:
        await tunnels.all_up()
        await sshd.stop()
        await tunnels.until("server/one", Phase.DOWN)
        held = 5 * CLIENTS
        with clients(port, held):
            await eventually(lambda: tunnels.meter("server/one").held == held)
            meter = tunnels.meter("server/one")
            await sshd.start()
            most, before = 0, held
            async with asyncio.timeout(WITHIN):
                while before:
                    await asyncio.sleep(0)
                    most, before = max(most, before - meter.held), meter.held
            assert most <= wake_queue.WOKEN_AT_ONCE
            await eventually(lambda: tunnels.results("server/one") == {"ok": held})


@pytest.mark.parametrize("kind", ["local", "socks"])
async def test_refused_clients_leave_no_reference_cycles(sshd: Sshd, tmp_path: Path, kind: str) -> None:
    """A full garbage collection stops the event loop, longer with more cycles."""
    port, closed = free_port(), free_port()
    line = local("one", port, closed) if kind == "local" else socks("one", port)
    sent = b"" if kind == "local" else NO_LOGIN + b"\x05\x01\x00\x01\x7f\x00\x00\x01" + closed.to_bytes(2)
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        await refuse(tunnels, port, sent)  # creates the objects that are created only once
        gc.collect()
        gc.disable()
        try:
            for _ in range(CLIENTS):
                await refuse(tunnels, port, sent)
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
        finally:
            gc.set_debug(0)
            gc.enable()
        names = [type(one).__name__ for one in gc.garbage]
        gc.garbage.clear()
        kinds = {name: names.count(name) for name in ("ChannelOpenError", "frame", "Task", "Relay", "ClientSocket")}
        assert max(kinds.values()) < CLIENTS // 4, kinds


async def refuse(tunnels: Running, port: int, sent: bytes) -> None:
    """Connect a client, and wait until it has been refused and forgotten."""
    before = tunnels.results("server/one").get("dial_failed", 0)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(sent)
        await eventually(lambda: tunnels.results("server/one").get("dial_failed", 0) > before)
    await eventually(lambda: tunnels.app.budget.clients == 0)
