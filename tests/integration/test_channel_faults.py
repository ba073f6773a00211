"""An internal error in the data path ends one link, which is dialled again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from reconciler.ssh.relay.relay import Relay
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import file, local, running
from support.wait import eventually, free_port

pytestmark = pytest.mark.usefixtures("is_plain")


@pytest.mark.parametrize("method", ["read", "deliver", "data"])
async def test_an_internal_error_of_a_relay_ends_its_link_alone(
    sshd: Sshd,
    echo: EchoServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    port = free_port()

    def broken(*_: object) -> int:
        raise AssertionError("planted")

    async with running(tmp_path, file(sshd, local("one", port, echo.port))) as tunnels:
        await tunnels.all_up()
        [link] = tunnels.links
        with monkeypatch.context() as planted:
            planted.setattr(Relay, method, broken)
            client = asyncio.create_task(exchange("127.0.0.1", port))
            await eventually(lambda: link.gone and link not in tunnels.links)
            client.cancel()
            await asyncio.gather(client, return_exceptions=True)
        await eventually(lambda: bool(tunnels.links) and tunnels.links != [link])
        assert await exchange("127.0.0.1", port, b"ping") == b"ping"
