"""Shutdown: no new clients, live ones may finish, the server's ports are released, exit code 0."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.commands import ran
from support.clients import Mover, all_move
from support.program import answers, program
from support.services import EchoServer, connected, refuses
from support.sshd import Sshd
from support.tunnels import file, local, remote
from support.wait import WITHIN, eventually, free_port

DRAIN = 3.0  # seconds, for a drain that ends in the test; an hour where the exit must not wait for it


class Place:
    """A local and a remote forward of a program, and its file. No timeout cuts a client within an hour."""

    def __init__(self, sshd: Sshd, echo: EchoServer, directory: Path) -> None:
        self.near, self.far = free_port(), free_port()
        drain = {"drainTimeout": "1h"}
        self.config = directory / "tunnels.yaml"
        lines = local("near", self.near, echo.port, **drain), remote("far", self.far, echo.port, **drain)
        self.config.write_text(file(sshd, *lines, keepaliveInterval="1h"))

    @property
    def ports(self) -> tuple[int, int]:
        return self.near, self.far

    async def answers(self) -> None:
        for port in self.ports:
            await answers(port)

    async def is_closed(self) -> bool:
        return all([await refuses(port) for port in self.ports])


@pytest.fixture
def place(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> Place:
    return Place(sshd, echo, tmp_path)


async def test_shutdown_accepts_no_client_and_waits_for_live_ones(place: Place, sshd: Sshd) -> None:
    async with program(place.config) as tunnels:
        await place.answers()
        movers = [Mover(port) for port in place.ports]
        await all_move(movers)
        tunnels.send(signal.SIGTERM)
        await eventually(place.is_closed)
        await all_move(movers)
        for mover in movers:
            await mover.end()
        assert await tunnels.ended() == 0
        assert "Traceback" not in tunnels.log_text()
    await eventually(lambda: not sshd.sessions())


async def test_shutdown_cuts_clients_at_the_drain_timeout(place: Place) -> None:
    place.config.write_text(place.config.read_text().replace("drainTimeout: 1h", f"drainTimeout: {DRAIN:g}s"))
    async with program(place.config) as tunnels:
        await place.answers()
        async with connected("127.0.0.1", place.near) as (reader, writer):
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            told = time.monotonic()
            tunnels.send(signal.SIGTERM)
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(1), WITHIN)
            assert await tunnels.ended() == 0
            took = time.monotonic() - told
    assert took >= DRAIN, "not before its time"


async def test_an_ending_process_reports_it_and_wait_waits_for_the_next(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port, control = free_port(), tmp_path / "control.sock"
    env = {"TUNNELS_CONTROL": str(control)}
    config = tmp_path / "tunnels.yaml"
    config.write_text(file(sshd, local("near", port, echo.port, drainTimeout="5m"), local("idle", 0, echo.port)))
    async with program(config, "--control", str(control)) as old:
        await answers(port)
        async with connected("127.0.0.1", port) as (reader, writer):
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            old.send(signal.SIGTERM)
            await eventually(lambda: refuses(port))
            status = await ran("status", env=env)
            assert status.code == 1
            assert (
                "server/near is draining:\n  the process is ending: waiting for its last clients to finish\n"
                in status.out
            )
            assert status.out.endswith("The process is ending: it accepts no new clients, and 1 client may finish.\n")
            shown = await ran("status", "server/idle", "--output", "json", env=env)
            assert (shown.code, shown.json["ending"], shown.json["tunnels"]) == (1, True, [])
            vain = await ran("wait", "server/idle", "--timeout", "100ms", env=env)
            assert vain.code == 1
            # The remaining time when the command asked.
            assert re.fullmatch(r"error: timed out after [\d.]+ s: the process is ending\n", vain.err), vain.err
            waiting = asyncio.create_task(ran("wait", "server/idle", "--timeout", "60s", env=env))
            await eventually(lambda: has_client(old.pid, control))
        assert await old.ended() == 0
    async with program(config, "--control", str(control)):
        waited = await waiting
        assert (waited.code, waited.err) == (0, "")


def has_client(pid: int, control: Path) -> bool:
    """Return True if a client is connected: the process has another socket than the listener."""
    sockets = set[str]()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(str(entry.readlink()))
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    names = [line[7] for line in lines if len(line) == 8 and f"socket:[{line[6]}]" in sockets]
    return sum(name.endswith(f"/{control.name}") for name in names) > 1


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_exits_at_once(first: signal.Signals, place: Place) -> None:
    async with program(place.config) as tunnels:
        await place.answers()
        async with connected("127.0.0.1", place.near) as (reader, writer):
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            tunnels.send(first)
            await eventually(place.is_closed)
            tunnels.send(signal.SIGTERM)
            assert await tunnels.ended() == 0
            with pytest.raises(ConnectionResetError):
                await reader.read(1)


async def test_a_frozen_server_does_not_delay_the_exit(place: Place, sshd: Sshd) -> None:
    async with program(place.config) as tunnels:
        await place.answers()
        sshd.pause()
        try:
            tunnels.send(signal.SIGTERM)
            assert await tunnels.ended() == 0
        finally:
            sshd.resume()


async def test_a_silent_name_server_does_not_delay_the_exit(sshd: Sshd, tmp_path: Path) -> None:
    resolv, config = tmp_path / "resolv.conf", tmp_path / "tunnels.yaml"
    with silent_name_server(resolv) as questions:
        config.write_text(file(sshd, local("echo", free_port(), 7), host="bastion.example"))
        async with program(config, through=with_resolver(resolv)) as tunnels:
            await eventually(lambda: has_query(questions), message=tunnels.log_text)
            tunnels.send(signal.SIGTERM)
            assert await tunnels.ended() == 0
            assert "Traceback" not in tunnels.log_text()


@contextlib.contextmanager
def silent_name_server(resolv: Path) -> Iterator[socket.socket]:
    """A silent name server, and the resolver's file that names it. A resolver waits minutes for it."""
    alone = ["unshare", "--mount", "true"]
    if os.geteuid() != 0 or subprocess.run(alone, capture_output=True, check=False).returncode:
        pytest.skip("only root can have a name server on port 53, and a resolv.conf of its own")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as questions:
        address = f"127.53.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 1}"
        questions.bind((address, 53))
        questions.setblocking(False)
        resolv.write_text(f"nameserver {address}\noptions timeout:30 attempts:5\n")
        yield questions


def has_query(questions: socket.socket) -> bool:
    try:
        return bool(questions.recv(512))
    except BlockingIOError:
        return False


def with_resolver(resolv: Path) -> list[str]:
    """Return a command prefix that gives one command this file as its /etc/resolv.conf."""
    return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"', str(resolv)]
