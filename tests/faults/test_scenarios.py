"""Common SSH scenarios: chains of forwards, server restrictions, rekeying under load, rotated host keys."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from reconciler.core.observed import Phase
from support.clients import moving
from support.keys import Keys
from support.services import MIB, EchoServer, SinkSource, by_tcp, download, exchange, upload
from support.socks_client import by_socks
from support.sshd import Sshd
from support.tunnels import Running, file, local, remote, running, socks
from support.wait import eventually, free_port


async def test_a_chain_through_every_kind_of_forward_carries_all_bytes_both_ways(sshd: Sshd, tmp_path: Path) -> None:
    # client -> socks -> sshd -> remote listener -> here -> local listener -> sshd -> remote listener -> service
    proxy, first, second, third = (free_port() for _ in range(4))
    async with SinkSource() as service:
        text = file(
            sshd,
            socks("proxy", proxy),
            remote("first", first, second),
            local("second", second, third),
            remote("third", third, service.port),
        )
        async with running(tmp_path, text) as tunnels:
            await tunnels.all_up()
            sent, seen = await upload("127.0.0.1", first, 8 * MIB, by_socks(proxy))
            assert sent == seen
            sent, seen = await download("127.0.0.1", first, 8 * MIB, by_socks(proxy))
            assert sent == seen
            await tunnels.no_client_is_connected()


FORBIDDEN = [
    ({"AllowTcpForwarding": "no"}, "forbidden", "forbidden"),
    ({"AllowTcpForwarding": "local"}, "up", "forbidden"),
    ({"AllowTcpForwarding": "remote"}, "forbidden", "up"),
    ({"DisableForwarding": "yes"}, "forbidden", "forbidden"),
    ({"PermitOpen": "127.0.0.1:{echo}"}, "up", "up"),
    ({"PermitOpen": "127.0.0.1:1"}, "forbidden", "up"),
    ({"PermitListen": "127.0.0.1:{far}"}, "up", "up"),
    ({"PermitListen": "127.0.0.1:1"}, "up", "forbidden"),
]


@pytest.mark.parametrize(
    ("options", "here", "there"), FORBIDDEN, ids=[" ".join(next(iter(one[0].items()))) for one in FORBIDDEN]
)
async def test_a_forbidden_forward_is_reported_and_the_other_one_works(
    options: dict[str, str], here: str, there: str, echo: EchoServer, tmp_path: Path
) -> None:
    port, far = free_port(), free_port()
    options = {key: value.format(echo=echo.port, far=far) for key, value in options.items()}
    async with Sshd(tmp_path / "sshd", options=options) as sshd:
        text = file(sshd, local("here", port, echo.port), remote("there", far, echo.port))
        async with running(tmp_path, text) as tunnels:
            for name, place, expected in (("server/here", port, here), ("server/there", far, there)):
                if expected == "up":
                    await tunnels.until(name, Phase.UP)
                    assert await exchange("127.0.0.1", place) == b"ping"
                else:
                    await is_forbidden(tunnels, name, place)


async def is_forbidden(tunnels: Running, name: str, port: int) -> None:
    """Check that the tunnel is forbidden: a local forward when clients connect, a remote one when it is requested."""
    if name == "server/here":
        await tunnels.until(name, Phase.UP)
        for _ in range(3):
            with pytest.raises(ConnectionError):
                await exchange("127.0.0.1", port)
    verdict = await tunnels.until(name, Phase.UNHEALTHY if name == "server/here" else Phase.DOWN)
    assert verdict.reason == "forbidden_by_server", verdict
    assert verdict.needs_action


@pytest.mark.parametrize("side", ["server", "client"])
async def test_rekeying_under_load_loses_no_data(side: str, tmp_path: Path) -> None:
    port, size = free_port(), 32 * MIB
    options = {"LogLevel": "DEBUG1"} | ({"RekeyLimit": "1M"} if side == "server" else {})
    async with Sshd(tmp_path / "sshd", options=options) as sshd, SinkSource() as service, EchoServer() as echo:
        other = free_port()
        async with running(
            tmp_path, file(sshd, local("sink", port, service.port), local("echo", other, echo.port))
        ) as tunnels:
            await tunnels.all_up()
            if side == "client":
                tunnels.links[0].connection._rekey_bytes = MIB
            async with moving([other], pause=0.001):
                jobs = [job("127.0.0.1", port, size) for job in (upload, download) for _ in range(2)]
                for sent, seen in await asyncio.gather(*jobs):
                    assert sent == seen
            assert len(tunnels.links) == 1
            assert tunnels.engine.actuator.records.target("server").failures == {}
        times = sshd.log_text().count("SSH2_MSG_NEWKEYS received") - 1
    assert times > 10


async def test_a_login_waits_until_the_server_has_a_free_login_slot(echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with Sshd(tmp_path / "sshd", options={"MaxStartups": "1", "LoginGraceTime": "5"}) as sshd:
        reader, writer = await by_tcp(sshd.host, sshd.port)  # takes the only login slot and sends nothing
        await reader.readline()
        async with running(tmp_path, file(sshd, local("echo", port, echo.port), reconnect="{max: 500ms}")) as tunnels:
            verdict = await tunnels.until("server/echo", Phase.DOWN)
            assert verdict.reason == "server_busy", verdict
            await tunnels.all_up()
            assert await exchange("127.0.0.1", port) == b"ping"
        writer.transport.abort()


@pytest.mark.parametrize("checking", ["true", "accept-new"])
async def test_a_rotated_host_key_is_trusted_only_after_it_is_added(
    checking: str, echo: EchoServer, tmp_path: Path, keys: Keys
) -> None:
    port = free_port()
    new = keys.make("new_host", kind="ecdsa-sha2-nistp256")
    async with Sshd(tmp_path / "sshd") as sshd:
        text = file(sshd, local("echo", port, echo.port, holdTimeout="10s"), strictHostKeyChecking=checking)
        async with running(tmp_path, text) as tunnels:
            await tunnels.all_up()
            sshd.options["hostkey"] = str(new.private)  # sshd reads both lines: keywords ignore case
            await sshd.restart()
            await tunnels.until("server/echo", Phase.UP)
            assert await exchange("127.0.0.1", port) == b"ping", (
                "the server still offers the old key to a client that knows it"
            )
            known = sshd.known_hosts.read_text()
            assert new.public_line.split()[1] not in known, "an unverified key is not added"
            sshd.options["HostKey"] = sshd.options.pop("hostkey")
            await sshd.restart()
            await eventually(lambda: (one := tunnels.verdict("server/echo")) and one.reason == "host_key")
            assert sshd.known_hosts.read_text() == known
            sshd.known_hosts.write_text(known + f"[{sshd.host}]:{sshd.port} {new.public_line}\n")
            await tunnels.all_up()
            assert await exchange("127.0.0.1", port) == b"ping"
