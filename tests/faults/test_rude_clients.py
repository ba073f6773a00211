"""A client that disconnects abruptly does not affect other clients."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from support.clients import all_move, moving
from support.dropbear import Dropbear
from support.faults import reset
from support.services import MIB, EchoServer, SinkSource, TcpService
from support.sshd import Sshd
from support.tunnels import file, local, remote, running
from support.wait import eventually, free_port

TURNS = 10


class Waiting(TcpService):
    """Accepts and sends nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        await reader.read()
        await asyncio.Event().wait()


@pytest.mark.parametrize("kind", [local, remote])
async def test_a_reset_during_a_half_close_does_not_affect_other_clients(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, kind: Callable[..., str]
) -> None:
    """A half-close right after a reset raises OSError, which must not close the SSH connection."""
    port, other = free_port(), free_port()
    async with Waiting() as service:
        text = file(sshd, kind("one", port, service.port), local("echo", other, echo.port))
        async with running(tmp_path, text) as run:
            await run.all_up()
            links = run.links
            async with moving([other] * 3) as movers:
                for turn in range(TURNS):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    await eventually(lambda turn=turn: len(service.writers) > turn)  # type: ignore[misc]
                    await all_move(movers)
                    ends = writer, service.writers[-1]
                    here, there = ends if kind is local else ends[::-1]  # seen from the relay
                    there.write_eof()
                    time.sleep(0.05)  # noqa: ASYNC251 - the loop must not run while the half-close reaches its socket
                    reset(here.transport)
                    await all_move(movers)
                    writer.transport.abort()
                    service.writers[-1].transport.abort()
            assert run.links == links


@pytest.mark.parametrize("ended_by", ["its deadline", "taking nothing"])
async def test_a_vanished_client_is_cut_if_the_server_does_not_report_it(
    dropbear: Dropbear, echo: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended_by: str
) -> None:
    """Dropbear drops data that it cannot write and waits for our close, which waits for Dropbear to read the rest."""
    port, other = free_port(), free_port()
    keep = local("keep", other, echo.port)
    text = file(dropbear, keep, remote("back", port, echo.port, drainTimeout="100ms"))
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        async with moving([other]):
            for _ in range(TURNS):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(bytes(70_000))
                writer.write_eof()
                writer.transport.abort()
            await eventually(lambda: sum(tunnels.results("server/back").values()) == TURNS)
            flows = tunnels.engine.actuator._flows
            await eventually(
                lambda: all(
                    client.relay is not None and client.relay.has_no_reader
                    for client in flows.connections(tunnel="server/back")
                )
            )
            if ended_by == "its deadline":
                tunnels.edit(file(dropbear, keep))
            else:
                monkeypatch.setattr("reconciler.ssh.clients.connection.DEAD_READER_TIMEOUT", 0.0)
            await eventually(
                lambda: {client.tunnel.id for client in tunnels.engine.actuator.connections()} == {"server/keep"}
            )
            [link] = tunnels.links
            await eventually(lambda: len(link.channels) == 1, message="their channels are closed")


async def test_a_reset_behind_a_jump_host_logs_no_warning(
    sshd: Sshd, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One read from the jump host's connection becomes several reads of the inner connection."""
    port = free_port()
    jump = f"{{host: {sshd.host}, port: {sshd.port}, user: {sshd.user}, privateKey: {sshd.client_key}, "
    jump += f"knownHosts: {sshd.known_hosts}}}"
    async with (
        SinkSource() as service,
        running(tmp_path, file(sshd, local("data", port, service.port), jumpHost=jump)) as tunnels,
    ):
        await tunnels.all_up()
        for _ in range(TURNS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"download {64 * MIB}\n".encode())
            for _ in range(50):
                await reader.read(MIB)
            reset(writer.transport)
        await tunnels.no_client_is_connected()
    assert not [record for record in caplog.records if record.name == "asyncio" and record.levelno >= logging.WARNING]
