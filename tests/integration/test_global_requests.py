"""Answers to global requests that servers give although RFC 4254 knows only two: success and failure, in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from asyncssh.constants import (
    MSG_DEBUG,
    MSG_GLOBAL_REQUEST,
    MSG_REQUEST_FAILURE,
    MSG_REQUEST_SUCCESS,
    MSG_UNIMPLEMENTED,
)
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from reconciler.core.observed import Phase, Reason
from reconciler.core.status import Verdict
from reconciler.report.changes import Change
from reconciler.ssh.connect import login_limiter
from reconciler.ssh.link.link import Link
from support.asyncssh_server import AsyncsshServer
from support.services import EchoServer, connected, exchange
from support.tunnels import Running, file, local, remote, running, target, tunnel
from support.wait import eventually, free_port

Answer = Callable[[Any, int, int, bytes], bool]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[AsyncsshServer]:
    async with AsyncsshServer(tmp_path / "asyncssh") as server:
        yield server


def named(payload: bytes) -> str:
    return SSHPacket(payload).get_string().decode()


def unimplemented(off: int, *names: str) -> Answer:
    """Answer these requests, or all, by SSH_MSG_UNIMPLEMENTED with a number that is `off` from theirs."""

    def answer(theirs: Any, kind: int, number: int, payload: bytes) -> bool:
        if kind != MSG_GLOBAL_REQUEST or (names and named(payload) not in names):
            return False
        theirs.send_packet(MSG_UNIMPLEMENTED, UInt32(number + off))
        return True

    return answer


def nothing_to(*names: str) -> Answer:
    """Do not answer these requests."""
    return lambda _theirs, kind, _number, payload: kind == MSG_GLOBAL_REQUEST and named(payload) in names


def replies(*packets: tuple[int, bytes]) -> Answer:
    """Answer requests to listen with these packets."""

    def answer(theirs: Any, kind: int, _number: int, payload: bytes) -> bool:
        if kind != MSG_GLOBAL_REQUEST or not named(payload).endswith("-forward"):
            return False
        for reply in packets:
            theirs.send_packet(*reply)
        return True

    return answer


async def trouble(tunnels: Running, tunnel: str) -> Verdict:
    """Wait until the tunnel has a reason, and return its verdict."""

    def found() -> Verdict | None:
        verdict = tunnels.verdict(tunnel)
        return verdict if verdict is not None and verdict.reason is not None else None

    verdict = await eventually(found)
    assert verdict is not None
    return verdict


# --- SSH_MSG_UNIMPLEMENTED ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [0, 1], ids=["libssh", "tinyssh"])
async def test_a_server_without_global_requests_keeps_its_clients(
    server: AsyncsshServer, tmp_path: Path, off: int
) -> None:
    server.answer = unimplemented(off)
    async with EchoServer() as echo:
        text = file(
            server,
            local("echo", port := free_port(), echo.port),
            remote("back", free_port(), echo.port),
            tunnel("unix", "remote", remoteSocket=tmp_path / "unix", localHost="127.0.0.1", localPort=echo.port),
            keepaliveInterval="100ms",
            keepaliveCountMax=1,
        )
        async with running(tmp_path, text) as tunnels:
            await tunnels.until("server/echo", Phase.UP)
            for forward in ("server/back", "server/unix"):
                verdict = await trouble(tunnels, forward)
                assert verdict.reason is Reason.FORBIDDEN_BY_SERVER
                assert "does not support remote forwards" in verdict.message
            async with connected("127.0.0.1", port) as (reader, writer):
                guard = tunnels.links[0].dialled.guard
                answered = guard.requests.answered
                await eventually(lambda: guard.requests.answered >= answered + 4)  # twice what ended the link
                writer.write(b"ping")
                assert await reader.readexactly(4) == b"ping"
            assert server.logins == 1


@pytest.mark.parametrize("answers", [True, False])
async def test_logins_do_not_wait_for_a_server_without_global_requests(
    server: AsyncsshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    server.answer = unimplemented(1) if answers else nothing_to("keepalive@openssh.com")
    if not answers:
        monkeypatch.setattr(login_limiter, "ANSWER_WITHIN", 0.1)
    names = [f"server{number}" for number in range(14)]  # six log in at once
    text = "targets:\n" + "".join(
        target(server, name, connectTimeout="100s") + local("a", free_port(), 1) for name in names
    )
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()


async def test_a_number_of_another_packet_ends_no_later_request(server: AsyncsshServer, tmp_path: Path) -> None:
    def answer(theirs: Any, kind: int, _number: int, payload: bytes) -> bool:
        if kind == MSG_GLOBAL_REQUEST and named(payload) == "tcpip-forward":
            theirs.send_packet(MSG_UNIMPLEMENTED, UInt32(1))
        return False

    server.answer = answer
    async with EchoServer() as echo, running(tmp_path, file(server, remote("r", 0, echo.port))) as tunnels:
        await tunnels.all_up()
        assert await exchange("127.0.0.1", tunnels.bound_port("server/r")) == b"ping"


async def test_the_next_tunnel_gets_a_port_that_the_server_could_not_cancel(
    server: AsyncsshServer, tmp_path: Path
) -> None:
    server.answer = unimplemented(0, "cancel-tcpip-forward")
    port = free_port()
    async with EchoServer() as echo:
        text = file(server, local("l", free_port(), 1), remote("one", port, echo.port))
        async with running(tmp_path, text) as tunnels:
            await tunnels.all_up()
            tunnels.edit(file(server, local("l", free_port(), 1)))
            await tunnels.all_up("server/l")
            tunnels.edit(file(server, local("l", free_port(), 1), remote("two", port, echo.port)))
            await tunnels.all_up("server/l", "server/two")
            assert await exchange("127.0.0.1", port) == b"ping"


# --- replies ------------------------------------------------------------------------------------------------------

SAID = "port 7000 is not yours"


@pytest.mark.parametrize(
    "text",
    [String(SAID), SAID.encode(), SAID.encode() + b"\r\n\0", String(SAID) + String("en")],
    ids=["string", "bytes", "line", "two strings"],
)
@pytest.mark.parametrize("port", [0, 15000])
async def test_the_text_of_a_refusal_is_the_reason(
    server: AsyncsshServer, tmp_path: Path, text: bytes, port: int
) -> None:
    server.answer = replies((MSG_REQUEST_FAILURE, text))
    async with running(tmp_path, file(server, remote("r", port, 1))) as tunnels:
        verdict = await trouble(tunnels, "server/r")
        assert verdict.reason is Reason.FORBIDDEN_BY_SERVER
        assert f"`{SAID}`" in verdict.message


@pytest.mark.parametrize(
    ("port", "packets", "reason", "said"),
    [
        (0, [(MSG_REQUEST_SUCCESS, b"\0\0")], Reason.PROTOCOL, "names no port"),
        (0, [(MSG_REQUEST_SUCCESS, b"")], Reason.PROTOCOL, "names no port"),
        (0, [(MSG_REQUEST_SUCCESS, UInt32(0))], Reason.PROTOCOL, "names no port"),
        (0, [(MSG_REQUEST_SUCCESS, UInt32(70_000))], Reason.PROTOCOL, "port 70000"),
        (0, [(MSG_REQUEST_FAILURE, b"")], Reason.FORBIDDEN_BY_SERVER, "does not say why"),
        (0, [(MSG_REQUEST_FAILURE, b"\xff\x00\x1b[31m")], Reason.FORBIDDEN_BY_SERVER, "[31m"),
        (0, [(MSG_REQUEST_SUCCESS, UInt32(15_001) + b"more")], None, ""),
        (15_001, [(MSG_REQUEST_SUCCESS, b"")], None, ""),
        (15_001, [(MSG_REQUEST_SUCCESS, UInt32(0))], None, ""),
        (15_001, [(MSG_REQUEST_SUCCESS, b"listening")], None, ""),
        (15_001, [(MSG_REQUEST_SUCCESS, b"")] * 3, None, ""),
        (15_001, [(MSG_REQUEST_SUCCESS, b""), (MSG_REQUEST_FAILURE, b"no")], None, ""),
    ],
)
async def test_each_reply_to_a_request_to_listen_is_reported(
    server: AsyncsshServer,
    tmp_path: Path,
    port: int,
    packets: list[tuple[int, bytes]],
    reason: Reason | None,
    said: str,
) -> None:
    server.answer = replies(*packets)
    async with running(tmp_path, file(server, remote("r", port, 1), local("l", free_port(), 1))) as tunnels:
        await tunnels.until("server/l", Phase.UP)
        if reason is None:
            await tunnels.until("server/r", Phase.UP)
        else:
            verdict = await trouble(tunnels, "server/r")
            assert (verdict.reason, said in verdict.message) == (reason, True), verdict
        [link] = tunnels.links
        await link.dialled.guard.requests.ping()
        assert tunnels.links == [link]


async def test_replies_without_a_request_cost_nothing(server: AsyncsshServer, tmp_path: Path, echo: EchoServer) -> None:
    async with running(tmp_path, file(server, local("l", port := free_port(), echo.port))) as tunnels:
        await tunnels.all_up()
        [theirs] = server._connections
        for kind in (MSG_REQUEST_SUCCESS, MSG_REQUEST_FAILURE, MSG_UNIMPLEMENTED):
            theirs.send_packet(kind, UInt32(3))
        theirs.send_packet(MSG_UNIMPLEMENTED)
        assert await exchange("127.0.0.1", port) == b"ping"
        assert server.logins == 1


# --- no answer ----------------------------------------------------------------------------------------------------


async def test_any_packet_is_a_sign_of_life(server: AsyncsshServer, tmp_path: Path) -> None:
    server.answer = nothing_to("keepalive@openssh.com")
    text = file(server, local("l", free_port(), 1), keepaliveInterval="100ms", keepaliveCountMax=1)
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        [theirs], [link] = server._connections, tunnels.links
        for sent in range(1, 7):
            await eventually(partial(more_wait, link, sent))
            theirs.send_packet(MSG_DEBUG, Boolean(False), String(""), String(""))
        assert not link.gone


def more_wait(link: Link, before: int) -> bool:
    return len(link.dialled.guard.requests._waiting) > before


async def test_a_keepalive_that_is_never_answered_is_named(server: AsyncsshServer, tmp_path: Path) -> None:
    server.answer = nothing_to("keepalive@openssh.com")
    text = file(server, local("l", free_port(), 1), keepaliveInterval="100ms", keepaliveCountMax=1)
    async with running(tmp_path, text) as tunnels:
        message = await eventually(lambda: next(filter(lost_by_keepalive, map(Change.sentence, tunnels.changes)), ""))
        assert "never answered a keepalive request" in message
        assert "`keepaliveInterval: 0s`" in message


def lost_by_keepalive(sentence: str) -> bool:
    return "down (keepalive)" in sentence and "never" in sentence


async def test_a_request_to_listen_without_an_answer_has_a_reason(server: AsyncsshServer, tmp_path: Path) -> None:
    server.answer = nothing_to("tcpip-forward")
    text = file(server, remote("r", free_port(), 1), dialTimeout="300ms")
    async with running(tmp_path, text) as tunnels:
        verdict = await trouble(tunnels, "server/r")
        assert (verdict.reason, "supports remote forwards" in verdict.message) == (Reason.TIMEOUT, True)
        server.answer = None
        await tunnels.all_up()


async def test_a_server_that_ignores_keepalives_listens(server: AsyncsshServer, tmp_path: Path) -> None:
    """Its answer to the request to listen is not taken for that to the keepalive before it for long."""
    server.answer = nothing_to("keepalive@openssh.com")
    async with EchoServer() as echo:
        text = file(server, remote("r", port := free_port(), echo.port), dialTimeout="300ms")
        async with running(tmp_path, text) as tunnels:
            await tunnels.all_up()
            assert await exchange("127.0.0.1", port) == b"ping"
        assert server.logins == 1
