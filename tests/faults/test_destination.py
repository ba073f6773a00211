"""A destination that is down affects only its own tunnel, not the other clients of the bastion."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.observed import Phase
from support.clients import listening_inodes, moving
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import file, local, running
from support.wait import free_port

ATTEMPTS = 10
PROBE = {"health": "{type: tcp, interval: 200ms, onFailure: reconnect}"}


@pytest.mark.parametrize(("fields", "reason"), [({}, "destination"), (PROBE, "probe")])
async def test_a_refusing_destination_does_not_affect_other_tunnels(
    fields: dict[str, str],
    reason: str,
    sshd: Sshd,
    echo: EchoServer,
    tmp_path: Path,
) -> None:
    """A probe that may replace the connection does not do so while other clients move data on it."""
    a, b = free_port(), free_port()
    async with EchoServer() as database:
        text = file(sshd, local("a", a, database.port, **fields), local("b", b, echo.port))
        async with running(tmp_path, text) as tunnels:
            await tunnels.all_up()
            links, inodes = tunnels.links, listening_inodes()
            async with moving([b] * 20, pause=0.01):
                await database.stop()
                for _ in range(ATTEMPTS):
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
