"""Each kind of tunnel of the original library, under its name there, in declarative form."""

from __future__ import annotations

from pathlib import Path

from support.services import EchoServer, connected, exchange
from support.socks_client import by_socks, curl
from support.sshd import Sshd
from support.tunnels import file, local, remote, running, socks, tunnel
from support.wait import eventually, free_port


async def test_create_tunnel(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, local("it", port, echo.port))) as tunnels:
        await tunnels.all_up()
        assert await exchange("127.0.0.1", port) == b"ping"


async def test_forward_port(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    line = f'      - {{local: "{port}:127.0.0.1:{echo.port}"}}\n'
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up(f"server/local-{port}")
        assert await exchange("127.0.0.1", port) == b"ping"


async def test_reverse_forward(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    line = f'      - {{remote: "{port}:127.0.0.1:{echo.port}"}}\n'
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up(f"server/remote-{port}")
        assert await exchange("127.0.0.1", port) == b"ping"


async def test_create_socks_proxy(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, tunnel("proxy", "socks", host="127.0.0.1", port=port))) as tunnels:
        await tunnels.all_up()
        assert await exchange("127.0.0.1", echo.port, opening=by_socks(port)) == b"ping"


async def test_create_socks_proxy_with_auth(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    auth = "{username: proxyuser, password: proxypass}"
    async with running(tmp_path, file(sshd, tunnel("proxy", "socks", port=port, auth=auth))) as tunnels:
        await tunnels.all_up()
        dead = f"http://127.0.0.1:{free_port()}/"
        got = await curl("-x", f"socks5h://proxyuser:proxypass@127.0.0.1:{port}", dead)
        assert "(5)" in got.said, "the login succeeds and the destination refuses"
        got = await curl("-x", f"socks5h://proxyuser:guess@127.0.0.1:{port}", dead)
        await eventually(lambda: tunnels.results("server/proxy") == {"dial_failed": 1, "auth_failed": 1})


async def test_connect_via_jump_host(echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with Sshd(tmp_path / "jump") as jump, Sshd(tmp_path / "inner") as inner:
        text = file(inner, local("it", port, echo.port), jumpHost=hop(jump))
        async with running(tmp_path, text) as tunnels:
            await tunnels.all_up()
            assert await exchange("127.0.0.1", port) == b"ping"
            assert (jump.sessions(), inner.sessions()) == (1, 1)


async def test_multi_hop_tunnels(echo: EchoServer, tmp_path: Path) -> None:
    """Every kind of tunnel works through two jump hosts, and again after a restart of the middle one."""
    here, there, proxy = free_port(), free_port(), free_port()
    lines = local("here", here, echo.port) + remote("there", there, echo.port) + socks("proxy", proxy)
    async with Sshd(tmp_path / "outer") as outer, Sshd(tmp_path / "middle") as middle, Sshd(tmp_path / "last") as last:
        text = file(last, lines, jumpHosts=f"[{hop(outer)}, {hop(middle)}]")
        async with running(tmp_path, text) as tunnels:
            await tunnels.all_up()
            for _ in range(2):
                assert await exchange("127.0.0.1", here) == b"ping"
                assert await exchange("127.0.0.1", there) == b"ping"
                assert await exchange("127.0.0.1", echo.port, opening=by_socks(proxy)) == b"ping"
                links = tunnels.links
                await middle.restart()
                await tunnels.replaced(links)
                await tunnels.all_up()


async def test_dynamic_local_port(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with running(tmp_path, file(sshd, local("it", 0, echo.port))) as tunnels:
        await tunnels.all_up()
        assert await exchange("127.0.0.1", tunnels.bound_port("server/it")) == b"ping"


async def test_bidirectional_tunnels(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    """A client of each direction works at the same time on one connection."""
    here, there = free_port(), free_port()
    async with running(
        tmp_path, file(sshd, local("out", here, echo.port), remote("back", there, echo.port))
    ) as tunnels:
        await tunnels.all_up()
        async with connected("127.0.0.1", here) as one, connected("127.0.0.1", there) as other:
            for reader, writer in (one, other, one):
                writer.write(b"x")
                assert await reader.readexactly(1) == b"x"
        assert len(tunnels.links) == 1


async def test_connection_reuse(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    ports = [free_port() for _ in range(5)]
    lines = "".join(local(f"t{port}", port, echo.port) for port in ports)
    async with running(tmp_path, file(sshd, lines)) as tunnels:
        await tunnels.all_up()
        for port in ports:
            assert await exchange("127.0.0.1", port) == b"ping"
        assert sshd.sessions() == 1


def hop(server: Sshd) -> str:
    """Return a jump host as a one-line value."""
    return (
        f"{{host: {server.host}, port: {server.port}, user: {server.user}, "
        f"privateKey: {server.client_key}, knownHosts: {server.known_hosts}}}"
    )
