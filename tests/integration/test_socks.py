"""SOCKS tunnels as clients see them: curl, and each reply that a client can get."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.core.observed import Phase, Reason
from reconciler.ssh.clients import socks as socks_handshake
from support.asyncssh_server import AsyncsshServer
from support.services import EchoServer, RefusingPort, TcpService, connected, exchange
from support.socks_client import SocksReplyError, by_socks, curl
from support.sshd import Sshd
from support.tunnels import file, local, running, socks, tunnel
from support.wait import eventually, free_port

NOT_ALLOWED, HOST_UNREACHABLE, REFUSED = 2, 4, 5


class Web(TcpService):
    """Answers each request with its first line."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        while (await reader.readline()).strip():
            pass
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(line) + line)
        await writer.drain()


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with Web() as server:
        yield server


@pytest.mark.parametrize("flag", ["--socks5", "--socks5-hostname"])
async def test_curl_gets_through_without_a_login(sshd: Sshd, web: Web, tmp_path: Path, flag: str) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port))) as tunnels:
        await tunnels.all_up()
        got = await curl(flag, f"127.0.0.1:{port}", f"http://localhost:{web.port}/path")
        assert (got.code, got.body) == (0, "GET /path HTTP/1.1\r\n")


@pytest.mark.parametrize("flag", ["--socks5", "--socks5-hostname"])
async def test_curl_gets_through_with_its_password(sshd: Sshd, web: Web, tmp_path: Path, flag: str) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port, auth=user(tmp_path)))) as tunnels:
        await tunnels.all_up()
        proxy = ("--proxy-user", "alice:in wonderland", flag, f"127.0.0.1:{port}")
        got = await curl(*proxy, f"http://localhost:{web.port}/")
        assert got.body == "GET / HTTP/1.1\r\n", got.said
        assert tunnels.results("server/proxy") == {"ok": 1}


@pytest.mark.parametrize("login", ["alice:wrong", "bob:in wonderland", None])
async def test_a_wrong_login_is_refused_and_counted(sshd: Sshd, web: Web, tmp_path: Path, login: str | None) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port, auth=user(tmp_path)))) as tunnels:
        await tunnels.all_up()
        proxy = (*(("--proxy-user", login) if login else ()), "--socks5-hostname", f"127.0.0.1:{port}")
        got = await curl(*proxy, f"http://localhost:{web.port}/")
        assert got.code == 97, got.said
        assert tunnels.results("server/proxy") == {"auth_failed": 1}
        assert web.total == 0


async def test_each_user_has_its_own_password(sshd: Sshd, web: Web, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "bob").write_text("builder\n")
    users = f"[{user(tmp_path)}, {{username: bob, password: {{file: {tmp_path / 'bob'}}}}}]"
    async with running(tmp_path, file(sshd, socks("proxy", port, auth=users))) as tunnels:
        await tunnels.all_up()
        codes = {
            login: (await curl("-U", login, "-x", f"socks5h://127.0.0.1:{port}", f"http://localhost:{web.port}/")).code
            for login in ("alice:in wonderland", "bob:builder", "alice:builder", "bob:in wonderland")
        }
        assert [code == 0 for code in codes.values()] == [True, True, False, False]


async def test_a_changed_password_applies_at_once_and_a_removed_user_is_cut(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    text = file(sshd, socks("proxy", port, auth=user(tmp_path)))
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        reader, writer = await logged_in(port, echo.port, "alice", "in wonderland")
        (tmp_path / "alice").write_text("through the looking-glass")
        with pytest.raises(AssertionError):
            await logged_in(port, echo.port, "alice", "in wonderland")
        writer.write(b"still there")
        assert await reader.readexactly(11) == b"still there"
        tunnels.edit(text.replace("alice", "carol", 1))
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(1), 30)
        writer.close()


async def test_an_unreadable_password_marks_the_tunnel_until_it_is_readable(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    text = file(sshd, socks("proxy", port, auth=user(tmp_path)))
    (tmp_path / "alice").unlink()
    async with running(tmp_path, text) as tunnels:
        verdict = await tunnels.until("server/proxy", Phase.UNHEALTHY)
        assert (verdict.reason, verdict.needs_action) == (Reason.SECRET_UNREADABLE, True)
        assert str(tmp_path / "alice") in verdict.message
        user(tmp_path)
        await tunnels.until("server/proxy", Phase.UP)
        _, writer = await logged_in(port, echo.port, "alice", "in wonderland")
        writer.close()
        (tmp_path / "alice").unlink()
        await tunnels.until("server/proxy", Phase.UNHEALTHY)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_addresses_of_both_ip_versions_and_names_are_reached(sshd: Sshd, tmp_path: Path, host: str) -> None:
    if host == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    port = free_port()
    async with EchoServer(host="::1" if host == "::1" else "127.0.0.1") as echo:
        async with running(tmp_path, file(sshd, socks("proxy", port))) as tunnels:
            await tunnels.all_up()
            assert await exchange(host, echo.port, opening=by_socks(port)) == b"ping"


async def test_names_are_resolved_on_the_server(asyncssh_server: AsyncsshServer, tmp_path: Path) -> None:
    port = free_port()
    asyncssh_server.refuse_channel("only-there.internal:80", text="Name or service not known")
    async with running(tmp_path, file(asyncssh_server, socks("proxy", port))) as tunnels:
        await tunnels.all_up()
        with pytest.raises(SocksReplyError) as refused:
            await exchange("only-there.internal", 80, opening=by_socks(port))
        assert refused.value.code == HOST_UNREACHABLE
        assert [request.address for request in asyncssh_server.requests] == ["only-there.internal:80"]


async def test_the_reply_code_gives_the_result_of_the_dial(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    with RefusingPort() as dead:
        async with running(tmp_path, file(sshd, socks("proxy", port))) as tunnels:
            await tunnels.all_up()
            async with tunnels.nothing_left_behind():
                assert await refusal(port, "127.0.0.1", dead.port) == REFUSED
                assert await refusal(port, "no-such-host.invalid", 80) == HOST_UNREACHABLE
            assert tunnels.results("server/proxy") == {"dial_failed": 2}
            assert tunnels.phases() == {"server/proxy": Phase.UP}, (
                "what one client asks for is not the tunnel's trouble"
            )


async def test_a_destination_that_the_server_forbids_is_not_allowed(tmp_path: Path, echo: EchoServer) -> None:
    port = free_port()
    async with Sshd(tmp_path / "sshd", options={"PermitOpen": "127.0.0.1:1"}) as sshd:
        async with running(tmp_path, file(sshd, socks("proxy", port))) as tunnels:
            await tunnels.all_up()
            assert await refusal(port, "127.0.0.1", echo.port) == NOT_ALLOWED


async def test_success_is_sent_only_after_the_destination_has_answered(
    asyncssh_server: AsyncsshServer, tmp_path: Path
) -> None:
    port = free_port()
    asyncssh_server.never_answer_channel("127.0.0.1:80")
    async with running(tmp_path, file(asyncssh_server, socks("proxy", port), dialTimeout="500ms")) as tunnels:
        await tunnels.all_up()
        assert await refusal(port, "127.0.0.1", 80) == HOST_UNREACHABLE


async def test_a_client_held_too_long_gets_an_error_reply(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port, holdTimeout="300ms"))) as tunnels:
        await tunnels.all_up()
        await sshd.stop()
        await tunnels.until("server/proxy", Phase.DOWN)
        assert await refusal(port, "127.0.0.1", echo.port) == 1
        assert tunnels.results("server/proxy") == {"hold_timeout": 1}


async def test_a_held_client_is_served_once_the_link_is_back(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port))) as tunnels:
        await tunnels.all_up()
        await sshd.stop()
        await tunnels.until("server/proxy", Phase.DOWN)
        client = asyncio.create_task(exchange("127.0.0.1", echo.port, opening=by_socks(port)))
        await eventually(lambda: tunnels.meter("server/proxy").held == 1)
        await sshd.start()
        assert await client == b"ping"


async def test_destinations_are_allowed_and_denied(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    rules = {"allowDestinations": f'["127.0.0.0/8:{echo.port}", "localhost:*"]', "denyDestinations": '["127.0.0.7:*"]'}
    line = socks("proxy", port, **rules)
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        assert await exchange("127.0.0.1", echo.port, opening=by_socks(port)) == b"ping"
        assert await exchange("localhost", echo.port, opening=by_socks(port)) == b"ping"
        assert await refusal(port, "127.0.0.7", echo.port) == NOT_ALLOWED
        assert await refusal(port, "127.0.0.1", echo.port + 1) == NOT_ALLOWED
        assert await refusal(port, "example.com", 443) == NOT_ALLOWED
        assert tunnels.results("server/proxy") == {"ok": 2, "denied": 3}


async def test_an_edit_that_forbids_a_destination_cuts_only_its_clients(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    async with EchoServer() as kept, EchoServer() as forbidden:
        async with running(tmp_path, file(sshd, socks("proxy", port))) as tunnels:
            await tunnels.all_up()
            async with (
                connected("127.0.0.1", kept.port, by_socks(port)) as (stays, says),
                connected("127.0.0.1", forbidden.port, by_socks(port)) as (goes, _),
            ):
                rule = f'["*:{forbidden.port}"]'
                tunnels.edit(file(sshd, socks("proxy", port, denyDestinations=rule)))
                with pytest.raises(ConnectionResetError):
                    await asyncio.wait_for(goes.read(1), 30)
                says.write(b"still there")
                assert await stays.readexactly(11) == b"still there"


async def test_a_handshake_that_takes_too_long_is_closed(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert socks_handshake.HANDSHAKE_TIME == 10.0
    monkeypatch.setattr(socks_handshake, "HANDSHAKE_TIME", 0.3)
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port))) as tunnels:
        await tunnels.all_up()
        async with tunnels.nothing_left_behind():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"\x05")
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), 30)
            writer.close()
        assert tunnels.results("server/proxy") == {"denied": 1}


async def test_clients_that_leave_in_the_handshake_leave_nothing_behind(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port))) as tunnels:
        await tunnels.all_up()
        async with tunnels.nothing_left_behind():
            for said in (b"", b"\x05", b"\x05\x01\x00", b"\x05\x01\x00\x05\x01\x00\x01"):
                for resets in (True, False):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(said)
                    if resets:
                        linger = struct.pack("ii", 1, 0)
                        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        writer.transport.abort()
                    else:
                        writer.close()
        assert "ok" not in tunnels.results("server/proxy")


async def test_a_client_that_does_not_speak_socks5_gets_an_error(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port))) as tunnels:
        await tunnels.all_up()
        got = await curl("-x", f"http://127.0.0.1:{port}", "http://localhost:1/")
        assert "socks5h://" in got.body
        got = await curl("--socks4", f"127.0.0.1:{port}", "http://127.0.0.1:1/")
        assert got.code == 97


async def test_data_sent_right_after_the_request_is_not_lost(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port))) as tunnels:
        await tunnels.all_up()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = b"\x05\x01\x00" + b"\x05\x01\x00\x01\x7f\x00\x00\x01" + echo.port.to_bytes(2)
        writer.write(request + b"early")
        await writer.drain()
        assert (await reader.readexactly(12))[:4] == b"\x05\x00\x05\x00"
        writer.write(b" and late")
        assert await reader.readexactly(14) == b"early and late"
        writer.close()


async def test_the_older_field_names_and_the_short_form_are_equivalent(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    one, two = free_port(), free_port()
    lines = tunnel("words", "socks", port=one) + f"      - {{name: short, socks: {two}}}\n"
    async with running(tmp_path, file(sshd, lines)) as tunnels:
        await tunnels.all_up()
        for port in (one, two):
            assert await exchange("127.0.0.1", echo.port, opening=by_socks(port)) == b"ping"


def user(directory: Path) -> str:
    """Return the user alice, whose password of two words is in a file of that name."""
    (directory / "alice").write_text("in wonderland\n")
    return f"{{username: alice, password: {{file: {directory / 'alice'}}}}}"


async def refusal(proxy: int, host: str, port: int) -> int:
    """Return the reply code of a refused request."""
    with pytest.raises(SocksReplyError) as refused:
        await exchange(host, port, opening=by_socks(proxy))
    return refused.value.code


async def logged_in(
    proxy: int, port: int, name: str, password: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy)
    writer.write(b"\x05\x01\x02")
    assert await reader.readexactly(2) == b"\x05\x02"
    writer.write(bytes((1, len(name))) + name.encode() + bytes((len(password),)) + password.encode())
    try:
        assert await reader.readexactly(2) == b"\x01\x00"
    except BaseException:
        writer.close()
        raise
    writer.write(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + port.to_bytes(2))
    assert (await reader.readexactly(10))[1] == 0
    return reader, writer


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


async def test_held_clients_are_rejected_when_the_tunnel_kind_changes(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One client requested a destination that no longer applies, the other sent no SOCKS request."""
    one, other = free_port(), free_port()
    async with EchoServer() as elsewhere:
        async with running(tmp_path, file(sshd, local("echo", one, echo.port), socks("proxy", other))) as tunnels:
            await tunnels.all_up()
            await sshd.stop()
            asking = asyncio.create_task(exchange("127.0.0.1", elsewhere.port, opening=by_socks(other)))
            plain = asyncio.create_task(exchange("127.0.0.1", one))
            await eventually(lambda: tunnels.meter("server/echo").held + tunnels.meter("server/proxy").held == 2)
            tunnels.edit(file(sshd, local("echo", other, echo.port), socks("proxy", one)))
            await eventually(
                lambda: (tunnels.bound_port("server/echo"), tunnels.bound_port("server/proxy")) == (other, one)
            )
            await sshd.start()
            assert isinstance((await asyncio.gather(asking, return_exceptions=True))[0], SocksReplyError)
            assert isinstance((await asyncio.gather(plain, return_exceptions=True))[0], ConnectionResetError)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
