"""The Python API: tunnels inside a program."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import pytest

from reconciler.api import ConfigError, TunnelsNotUpError, open_tunnels
from reconciler.core.observed import Phase
from support.asyncssh_server import AsyncsshServer
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import local, target
from support.wait import eventually, free_port


def content(sshd: Sshd, to: int, **fields: object) -> dict[str, object]:
    """Return the content of a file as a mapping."""
    tunnel = {"name": "echo", "type": "local", "localPort": 0, "remoteHost": "127.0.0.1", "remotePort": to}
    return {
        "targets": {
            "server": {
                "host": sshd.host,
                "port": sshd.port,
                "user": sshd.user,
                "privateKey": str(sshd.client_key),
                "knownHosts": str(sshd.known_hosts),
                **fields,
                "tunnels": [tunnel],
            }
        }
    }


async def test_a_mapping_opens_tunnels_while_the_block_runs(sshd: Sshd, echo: EchoServer) -> None:
    async with open_tunnels(content(sshd, echo.port)) as tunnels:
        port = tunnels.port("server/echo")
        assert await exchange("127.0.0.1", port) == b"ping"
        with pytest.raises(KeyError):
            tunnels["server/other"]
    with pytest.raises(ConnectionRefusedError):
        await exchange("127.0.0.1", port)


async def test_a_file_opens_tunnels_too(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "tunnels.yaml"
    file.write_text("targets:\n" + target(sshd) + local("echo", port, echo.port))
    async with open_tunnels(file) as tunnels:
        assert [one.id for one in tunnels.all()] == ["server/echo"]
        assert await exchange("127.0.0.1", port) == b"ping"


async def test_configuration_errors_and_failures_are_exceptions(sshd: Sshd, echo: EchoServer) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        async with open_tunnels(content(sshd, echo.port, usr="x")):
            pass
    with pytest.raises(TunnelsNotUpError, match="server/echo: down"):
        async with open_tunnels(content(sshd, echo.port, port=free_port()), within=5.0):
            pass


async def test_a_failing_probe_restarts_the_target(asyncssh_server: AsyncsshServer, tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "tunnels.yaml"
    async with EchoServer() as service:
        health = "{type: tcp, interval: 100ms, timeout: 1s, failureThreshold: 2, onFailure: reconnect}"
        file.write_text("targets:\n" + target(asyncssh_server) + local("sick", port, service.port, health=health))
        async with open_tunnels(file) as tunnels:
            before = asyncssh_server.logins
            asyncssh_server.never_answer_channel(service.address)
            await eventually(lambda: asyncssh_server.logins > before)
            asyncssh_server.answer_normally()
            await eventually(lambda: tunnels["server/sick"].phase is Phase.UP)
            assert await exchange("127.0.0.1", port) == b"ping"


async def test_a_wait_ends_with_the_block(asyncssh_server: AsyncsshServer, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    file.write_text("targets:\n" + target(asyncssh_server) + local("echo", free_port(), 1))
    async with open_tunnels(file) as tunnels:
        await asyncssh_server.stop()
        await eventually(lambda: tunnels.all()[0].phase is not Phase.UP)
        waiting = asyncio.create_task(tunnels.until_up(3600.0))
    with pytest.raises(RuntimeError, match="block has ended"):
        await waiting


async def test_the_limit_of_open_files_does_not_change(sshd: Sshd, echo: EchoServer) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = min(soft, hard - 1) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (lower, hard))
    try:
        async with open_tunnels(content(sshd, echo.port)):
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (lower, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
