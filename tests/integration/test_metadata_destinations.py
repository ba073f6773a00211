"""Link-local addresses and cloud metadata services are reachable only if the file names them."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from reconciler.core.observed import Phase
from reconciler.system import tcp
from support.asyncssh_server import AsyncsshServer
from support.services import EchoServer, exchange
from support.socks_client import SocksReplyError, by_socks
from support.sshd import Sshd
from support.tunnels import file, remote, running, socks, tunnel
from support.wait import eventually, free_port

NOT_ALLOWED = 2
SERVICES = ("169.254.169.254", "100.100.100.200", "fd00:ec2::254", "fe80::a9fe:a9fe", "64:ff9b::a9fe:a9fe")
NAMES = ("metadata.google.internal", "METADATA.google.internal.", "instance-data")


@pytest.mark.parametrize("rules", [{}, {"allowDestinations": '["*:*", "0.0.0.0/0:*", "*.internal:*"]'}])
async def test_a_socks_client_does_not_reach_a_metadata_service(
    asyncssh_server: AsyncsshServer, tmp_path: Path, rules: dict[str, str]
) -> None:
    port = free_port()
    async with running(tmp_path, file(asyncssh_server, socks("proxy", port, **rules))) as tunnels:
        await tunnels.all_up()
        for host in (*SERVICES, "::ffff:169.254.169.254", *NAMES):
            with pytest.raises(SocksReplyError) as refused:
                await exchange(host, 80, opening=by_socks(port))
            assert refused.value.code == NOT_ALLOWED, host
        assert asyncssh_server.requests == []


async def test_a_socks_client_reaches_the_metadata_service_that_a_rule_names(
    asyncssh_server: AsyncsshServer, tmp_path: Path
) -> None:
    port = free_port()
    rules = '["*:*", "169.254.169.254:80", "metadata.google.internal:80"]'
    for host in ("169.254.169.254", "metadata.google.internal"):
        asyncssh_server.refuse_channel(f"{host}:80", text="Connection refused")
    async with running(tmp_path, file(asyncssh_server, socks("proxy", port, allowDestinations=rules))) as tunnels:
        await tunnels.all_up()
        for host, named, code in (
            ("169.254.169.254", 80, 5),
            ("metadata.google.internal", 80, 5),
            ("169.254.169.254", 81, NOT_ALLOWED),
            ("169.254.169.253", 80, NOT_ALLOWED),
        ):
            with pytest.raises(SocksReplyError) as refused:
                await exchange(host, named, opening=by_socks(port))
            assert refused.value.code == code, (host, named)
        asked = [request.address for request in asyncssh_server.requests]
        assert asked == ["169.254.169.254:80", "metadata.google.internal:80"]


async def test_a_live_metadata_client_is_cut_when_its_rule_is_removed(
    asyncssh_server: AsyncsshServer, tmp_path: Path
) -> None:
    port = free_port()
    asyncssh_server.never_answer_channel("169.254.169.254:80")
    line = socks("proxy", port, allowDestinations='["*:*", "169.254.169.254:80"]')
    async with running(tmp_path, file(asyncssh_server, line)) as tunnels:
        await tunnels.all_up()
        client = asyncio.create_task(exchange("169.254.169.254", 80, opening=by_socks(port)))
        await eventually(lambda: asyncssh_server.requests)
        tunnels.edit(file(asyncssh_server, socks("proxy", port, allowDestinations='["*:*"]')))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(client, 30)


async def test_a_remote_forward_does_not_follow_a_name_to_metadata(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file gives a host name, and the resolver decides to which address it leads."""
    resolved = ["169.254.169.254"]

    async def addresses(_endpoint: object, _outbound: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, echo.port)) for address in resolved]

    port = free_port()
    line = tunnel("back", "remote", remotePort=port, localHost="app.example", localPort=echo.port)
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        monkeypatch.setattr(tcp, "addresses", addresses)
        for _ in range(3):
            assert await exchange("127.0.0.1", port, b"") == b""
        verdict = await tunnels.until("server/back", Phase.UNHEALTHY)
        assert "its name resolves to 169.254.169.254, a link-local address" in verdict.message
        resolved.append("127.0.0.1")
        assert await exchange("127.0.0.1", port) == b"ping"
        monkeypatch.undo()


async def test_a_file_with_a_metadata_destination_is_rejected_with_the_reason(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    good = file(sshd, remote("back", port, echo.port))
    async with running(tmp_path, good) as tunnels:
        await tunnels.all_up()
        tunnels.edit(good.replace("localHost: 127.0.0.1", "localHost: 169.254.169.254"))

        def errors() -> str:
            latest = tunnels.app.config_store.latest
            return " ".join(map(str, latest.errors)) if latest is not None else ""

        await eventually(lambda: "metadata-destination" in errors(), message=errors)
        assert await exchange("127.0.0.1", port) == b"ping"
