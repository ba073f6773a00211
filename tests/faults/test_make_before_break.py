"""A connection is replaced while fifty clients transfer data. A connection that fails replaces nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from reconciler.core.observed import Phase
from support.clients import FULL, LONG, moving
from support.keys import Keys
from support.services import EchoServer, SinkSource, download, exchange, upload
from support.sshd import Sshd
from support.tunnels import Running, file, local, running
from support.wait import eventually, free_port

CLIENTS = 50
REPLACEMENTS = 100 if FULL else 10
SIZE = 1 << 18
CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")


@pytest.mark.timeout(LONG)
async def test_ten_replaced_connections_damage_none_of_fifty_transfers(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    whole = 0
    replaced = asyncio.Event()

    async def transfer() -> None:
        nonlocal whole
        while not replaced.is_set():
            for way in (download, upload):
                sent, seen = await way("127.0.0.1", port, SIZE)
                assert sent == seen
                whole += 1

    async with SinkSource() as service:

        def text(cipher: str) -> str:
            return file(sshd, local("data", port, service.port), algorithms=f"{{cipher: [{cipher}]}}")

        async with running(tmp_path, text(CIPHERS[0])) as tunnels:
            await tunnels.all_up()
            clients = [asyncio.create_task(transfer()) for _ in range(CLIENTS)]
            for turn in range(REPLACEMENTS):
                before = newest(tunnels)
                if turn % 2:
                    tunnels.engine.restart(["server"], "the test asks for it")
                else:
                    tunnels.edit(text(CIPHERS[(turn // 2 + 1) % 2]))
                await eventually(lambda before=before: newest(tunnels) > before)  # type: ignore[misc]
                at_least = whole + CLIENTS // 2
                await eventually(lambda at_least=at_least: whole > at_least)  # type: ignore[misc]
            replaced.set()
            await asyncio.gather(*clients)
            assert newest(tunnels) == REPLACEMENTS + 1, "each was replaced once"
            await eventually(lambda: len(tunnels.links) == 1, message="the replaced ones end with their last clients")


async def test_a_failing_new_access_keeps_the_old_connection_and_says_why(
    sshd: Sshd, echo: EchoServer, keys: Keys, tmp_path: Path
) -> None:
    port = free_port()
    tunnel = local("echo", port, echo.port)
    stranger = keys.make("stranger")
    async with running(tmp_path, file(sshd, tunnel)) as tunnels:
        await tunnels.all_up()
        (before,) = tunnels.links
        async with moving([port] * 5):
            tunnels.edit(file(sshd, tunnel, privateKey=stranger.private))

            def told() -> str:
                assert tunnels.engine.status is not None
                verdict = tunnels.engine.status.targets[0].verdict
                return verdict.message if verdict.reason == "auth" else ""

            said = await eventually(told)
            verdict = tunnels.verdict("server/echo")
            assert verdict is not None
            assert verdict.message == said, "its tunnels say it as well"
            assert "still using the old connection" in said
            assert str(stranger.private) in said, "the key that does not work is named"
            assert tunnels.phases() == {"server/echo": Phase.UP}
            assert await exchange("127.0.0.1", port) == b"ping", "new clients are carried too"
            assert tunnels.links == [before]
            sshd.authorize(stranger)  # no event ends this state: an edit of the file does
            tunnels.edit(file(sshd, tunnel, privateKey=stranger.private, compress="true"))
            await eventually(lambda: tunnels.links[-1] is not before)
            await eventually(lambda: not told())
        await eventually(lambda: before not in tunnels.links)


def newest(tunnels: Running) -> int:
    """Return the number of the latest connection."""
    return max(link.number for link in tunnels.links)


async def test_a_tunnel_renamed_during_a_handover_keeps_its_client(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("old", port, echo.port))) as tunnels:
        await tunnels.all_up()
        async with moving([port]):
            [old] = tunnels.links
            tunnels.restart("server")
            await eventually(lambda: newest(tunnels) > old.number)
            tunnels.edit(file(sshd, local("new", port, echo.port)))
            await tunnels.all_up("server/new")
            await eventually(lambda: tunnels.meter("server/new").active == 1)
            assert old in tunnels.links
        await eventually(lambda: old not in tunnels.links, message="it ends with its last client")
