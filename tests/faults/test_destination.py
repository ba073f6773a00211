"""A destination that is not there is its own tunnel's trouble: the bastion's other clients hear nothing of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.observed import Phase
from support.clients import listening_inodes, moving
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import file, local, running
from support.wait import free_port

VAIN = 10
PROBE = {"health": "{type: tcp, interval: 200ms, onFailure: reconnect}"}


@pytest.mark.parametrize(("fields", "reason"), [({}, "destination"), (PROBE, "probe")])
async def test_a_database_that_refuses_is_unhealthy_and_costs_its_neighbours_nothing(
    fields: dict[str, str],
    reason: str,
    sshd: Sshd,
    echo: EchoServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where its probe may replace the connection: not while others on it move data."""
    a, b = free_port(), free_port()
    async with EchoServer() as database:
        text = file(sshd, local("a", a, database.port, **fields), local("b", b, echo.port))
        async with running(tmp_path, text) as tunnels:
            await tunnels.all_up()
            links, inodes = tunnels.links, listening_inodes()
            async with moving([b] * 20, pause=0.01):
                await database.stop()
                for _ in range(VAIN):
                    with pytest.raises(ConnectionResetError):
                        await exchange("127.0.0.1", a)
                verdict = await tunnels.until("server/a", Phase.UNHEALTHY)
                assert verdict.reason == reason
                assert tunnels.phases()["server/b"] is Phase.UP
                await database.start()
                assert await exchange("127.0.0.1", a) == b"ping"
                await tunnels.all_up()
            assert tunnels.links == links, "the connection is not replaced"
            now = listening_inodes()
            assert (now[a], now[b]) == (inodes[a], inodes[b])
    with capsys.disabled():
        print(f"\n  a database refused {VAIN} clients on a shared bastion: 0 of 20 clients cut, 0 connections replaced")
