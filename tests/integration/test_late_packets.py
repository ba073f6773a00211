"""Packets for channels that have closed, which several servers send: they cost nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from asyncssh.packet import String, UInt32

from integration.dialling import access, dialled, hop
from reconciler.core.spec import Endpoint
from reconciler.ssh.internals.asyncssh_state import FIRST_CHANNEL
from support.asyncssh_server import AsyncsshServer
from support.faults import CloseOnAccept
from support.services import EchoServer, by_tcp, connected, exchange
from support.socks_client import by_socks
from support.sshd import Sshd
from support.tunnels import file, local, remote, running, socks
from support.wait import eventually, free_port

OPEN, ADJUST, DATA, EOF, CLOSE, REQUEST = 90, 93, 94, 96, 97, 98
PROBED = "{type: tcp, interval: 50ms, failureThreshold: 1}"


def send_late(theirs: Any, number: int) -> None:
    """Send each packet that a server may send late to a channel of the client."""
    theirs.send_packet(ADJUST, UInt32(number), UInt32(1))
    theirs.send_packet(DATA, UInt32(number), String(b"late"))
    theirs.send_packet(EOF, UInt32(number))
    theirs.send_packet(CLOSE, UInt32(number))


@pytest.mark.usefixtures("is_plain")
@pytest.mark.parametrize("way", ["local", "remote", "socks", "probe"])
async def test_late_packets_leave_the_neighbours_alone(
    asyncssh_server: AsyncsshServer, tmp_path: Path, echo: EchoServer, way: str
) -> None:
    port, near = free_port(), free_port()
    line = {
        "local": local("one", port, echo.port),
        "remote": remote("one", port, echo.port),
        "socks": socks("one", port),
        "probe": local("one", port, echo.port, health=PROBED),
    }[way]
    opening = by_socks(port) if way == "socks" else by_tcp
    to = echo.port if way == "socks" else port
    async with running(tmp_path, file(asyncssh_server, line, local("near", near, echo.port))) as tunnels:
        await tunnels.all_up()
        [link], [theirs] = tunnels.links, asyncssh_server._connections
        mux = link.channels._mux
        async with connected("127.0.0.1", near) as (reader, writer):
            for _ in range(3):
                if way != "probe":
                    assert await exchange("127.0.0.1", to, opening=opening) == b"ping"
            await eventually(lambda: mux._numbers._next > FIRST_CHANNEL + 1 and len(mux) == 1)
            for number in range(FIRST_CHANNEL, mux._numbers._next):
                if number not in mux._channels:
                    send_late(theirs, number)
            writer.write(b"2")
            assert await reader.readexactly(1) == b"2"
        assert tunnels.links == [link]


async def test_late_packets_do_not_keep_a_jump_host_from_the_next_host(
    asyncssh_server: AsyncsshServer, sshd: Sshd
) -> None:
    opened = list[int]()

    def answer(theirs: Any, kind: int, _number: int, payload: bytes) -> bool:
        if kind == OPEN:
            for number in opened:
                send_late(theirs, number)
            length = int.from_bytes(payload[:4])
            opened.append(int.from_bytes(payload[4 + length : 8 + length]))
        return False

    asyncssh_server.answer = answer
    async with CloseOnAccept() as closing:
        hosts = Endpoint("127.0.0.1", closing.port), Endpoint(sshd.host, sshd.port)
        async with dialled(access(hop(sshd, hosts=hosts), hop(asyncssh_server))) as ours:
            assert ours.host == 1
            assert len(opened) == 2
