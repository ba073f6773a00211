"""Limits of SOCKS clients: memory while they are held, and password guesses."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from reconciler.core.observed import Phase
from reconciler.core.rules import guess_limiter
from reconciler.ssh.clients import connector
from reconciler.ssh.clients.socks import READ
from reconciler.ssh.relay.client_socket import ClientSocket
from support.services import EchoServer, connected
from support.sshd import Sshd
from support.tunnels import file, local, running, socks
from support.wait import WITHIN, eventually, free_port

CLIENTS = 100
SENT = 65_536  # bytes
LOGIN = b"\x05\x01\x02" + b"\x01\x05alice\x0din wonderland"
NO_LOGIN = b"\x05\x01\x00"
REFUSED_LOGIN = b"\x05\x02\x01\x01"


def request(port: int, host: bytes = b"\x01\x7f\x00\x00\x01") -> bytes:
    return b"\x05\x01\x00" + host + port.to_bytes(2)


def user(directory: Path) -> str:
    (directory / "alice").write_text("in wonderland\n")
    return f"{{username: alice, password: {{file: {directory / 'alice'}}}}}"


# --- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["socks", "socks with a login", "socks by name", "local"])
async def test_little_of_a_held_client_is_read(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """No byte that the client sent is lost."""
    read: Counter[ClientSocket] = Counter()
    read_into = ClientSocket.read_into

    def counted(client: ClientSocket, space: Sequence[memoryview]) -> int:
        count = read_into(client, space)
        if count > 0:
            read[client] += count
        return count

    monkeypatch.setattr(ClientSocket, "read_into", counted)
    port = free_port()
    handshake, answer, line = {
        "socks": (NO_LOGIN + request(echo.port), 2 + 10, socks("one", port)),
        "socks with a login": (LOGIN + request(echo.port), 2 + 2 + 10, socks("one", port, auth=user(tmp_path))),
        "socks by name": (NO_LOGIN + request(echo.port, b"\x03\x09localhost"), 2 + 10, socks("one", port)),
        "local": (b"", 0, local("one", port, echo.port)),
    }[kind]
    data = bytes(range(256)) * (SENT // 256)
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        await sshd.stop()
        await tunnels.until("server/one", Phase.DOWN)
        clients = [asyncio.create_task(echoed(port, handshake + data, answer + len(data))) for _ in range(CLIENTS)]
        await eventually(lambda: tunnels.meter("server/one").held == CLIENTS)
        assert len(read) == (CLIENTS if handshake else 0)
        assert all(count < len(handshake) + READ for count in read.values())
        await sshd.start()
        for got in await asyncio.gather(*clients):
            assert got[answer:] == data
        await tunnels.no_client_is_connected()


async def echoed(port: int, data: bytes, size: int) -> bytes:
    async with connected("127.0.0.1", port) as (reader, writer):
        writer.write(data)
        async with asyncio.timeout(WITHIN):
            return await reader.readexactly(size)


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (NO_LOGIN + request(1, b"\x01\xa9\xfe\xa9\xfe"), b"\x05\x00\x05\x02\x00\x01" + bytes(6)),
        (b"\x05\x01\x07", b"\x05\xff"),
        (NO_LOGIN + b"\x05\x02\x00\x01\x7f\x00\x00\x01\x00\x50", b"\x05\x00\x05\x07\x00\x01" + bytes(6)),
        (b"GET http://example.com/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 501"),
    ],
)
async def test_a_refusal_reaches_a_client_that_has_sent_more_data(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes, answer: bytes
) -> None:
    """Closing a socket with unread data resets it, and the reply would be lost."""
    assert connector.CLOSE_WITHIN == 1.0
    monkeypatch.setattr(connector, "CLOSE_WITHIN", WITHIN)  # this client reads the reply late
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port))) as tunnels:
        await tunnels.all_up()
        async with tunnels.nothing_left_behind(), connected("127.0.0.1", port) as (reader, writer):
            writer.write(sent + bytes(SENT))
            await asyncio.sleep(0.2)  # the refusal is sent before it is read
            assert (await asyncio.wait_for(reader.read(), WITHIN)).startswith(answer)


async def test_a_refused_client_that_keeps_sending_is_cut(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port))) as tunnels:
        await tunnels.all_up()
        async with tunnels.nothing_left_behind(), connected("127.0.0.1", port) as (_, writer):
            writer.write(b"\x05\x01\x07")

            async def send() -> None:
                while True:
                    writer.write(bytes(1000))
                    await writer.drain()
                    await asyncio.sleep(0.01)

            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await asyncio.wait_for(send(), WITHIN)


# --- password guesses --------------------------------------------------------------------------------------------


async def test_more_connections_do_not_speed_up_password_guessing(
    sshd: Sshd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "reconciler.ssh.clients.refusal_log")
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port, auth=user(tmp_path)))) as tunnels:
        await tunnels.all_up()
        began = time.monotonic()
        answers = await asyncio.gather(*(guess(port, f"wrong {number}") for number in range(CLIENTS)))
        seconds = time.monotonic() - began
        assert answers == [REFUSED_LOGIN] * CLIENTS
        assert tunnels.results("server/proxy") == {"auth_failed": CLIENTS}
        compared = sum("wrong user name or password" in record.getMessage() for record in caplog.records)
        assert guess_limiter.BURST <= compared <= guess_limiter.BURST + seconds / guess_limiter.INTERVAL + 1
        unanswered = sum("too many wrong passwords" in record.getMessage() for record in caplog.records)
        assert compared + unanswered == CLIENTS


async def test_a_correct_password_is_accepted_while_its_address_is_limited(sshd: Sshd, tmp_path: Path) -> None:
    """It may have to wait or to retry; a client from another address does not."""
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port, auth=user(tmp_path)))) as tunnels:
        await tunnels.all_up()
        async with asyncio.TaskGroup() as group:
            wrong = [group.create_task(guess(port, f"wrong {number}")) for number in range(CLIENTS)]
            await eventually(lambda: len(tunnels.meter("server/proxy").guesses) == 1)
            assert await guess(port, "in wonderland", source="127.0.0.2") == b"\x05\x02\x01\x00"
            assert not all(task.done() for task in wrong)

        async def is_right() -> bool:
            return await guess(port, "in wonderland") == b"\x05\x02\x01\x00"

        await eventually(is_right)


async def test_a_client_with_an_old_password_does_not_delay_others(sshd: Sshd, tmp_path: Path) -> None:
    """The same wrong password counts as one guess."""
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port, auth=user(tmp_path)))) as tunnels:
        await tunnels.all_up()
        await asyncio.gather(*(guess(port, "an old one") for _ in range(CLIENTS)))
        [source] = tunnels.meter("server/proxy").guesses._sources.values()
        assert source.paid_at - asyncio.get_running_loop().time() < guess_limiter.BURST * guess_limiter.INTERVAL
        (tmp_path / "alice").write_text("an old one")
        assert await guess(port, "an old one") == b"\x05\x02\x01\x00", "it is right by now"


async def test_many_correct_passwords_at_once_are_not_delayed(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port, auth=user(tmp_path)))) as tunnels:
        await tunnels.all_up()
        answers = await asyncio.gather(*(guess(port, "in wonderland") for _ in range(CLIENTS)))
        assert answers == [b"\x05\x02\x01\x00"] * CLIENTS
        assert len(tunnels.meter("server/proxy").guesses) == 0


async def test_a_client_that_is_cut_during_its_login_is_not_counted_as_one_that_left(
    sshd: Sshd, tmp_path: Path
) -> None:
    port = free_port()
    async with running(tmp_path, file(sshd, socks("proxy", port, auth=user(tmp_path)))) as tunnels:
        await tunnels.all_up()
        actuator = tunnels.engine.actuator
        clients = [asyncio.create_task(guess(port, f"wrong {number}")) for number in range(CLIENTS)]
        logging_in = await eventually(lambda: [one for one in actuator.connections() if one.handshake and one.task])
        for one in logging_in:
            one.cut("its listener is closing")
        ends = await asyncio.gather(*clients, return_exceptions=True)
        answered = ends.count(REFUSED_LOGIN)
        assert answered == CLIENTS - len(logging_in)
        await eventually(lambda: not actuator.connections())
        assert tunnels.results("server/proxy") == {"auth_failed": answered}


async def guess(port: int, password: str, *, source: str = "127.0.0.1") -> bytes:
    """Return the proxy's replies to the greeting and to this login."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    try:
        writer.write(b"\x05\x01\x02\x01\x05alice" + bytes((len(password),)) + password.encode())
        return await asyncio.wait_for(reader.readexactly(4), WITHIN)
    finally:
        writer.close()
