"""A vanished client's session holds a port on the server: the tunnel reports it and gets the port when it is free."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reconciler.core.observed import Phase
from support.processes import tied_to_parent
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import file, remote, running
from support.wait import eventually, free_port


@contextlib.asynccontextmanager
async def forwarded_by_ssh(sshd: Sshd, port: int, to: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a real ssh that holds the port."""
    options = ["IdentitiesOnly=yes", f"UserKnownHostsFile={sshd.known_hosts}", "ExitOnForwardFailure=yes"]
    flags = [part for option in options for part in ("-o", option)]
    command = ["ssh", "-F", "none", "-N", *flags, "-i", str(sshd.client_key), "-p", str(sshd.port)]
    command += ["-R", f"127.0.0.1:{port}:127.0.0.1:{to}", f"{sshd.user}@{sshd.host}"]
    process = await asyncio.create_subprocess_exec(*tied_to_parent(command), stdin=asyncio.subprocess.DEVNULL)
    try:
        await eventually(lambda: answers(port))
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("policy", ["retry", "standby"])
async def test_a_remote_port_of_a_vanished_session_is_bound_when_it_is_free(
    policy: str, sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port, other = free_port(), free_port()
    async with forwarded_by_ssh(sshd, port, echo.port) as ssh:
        ssh.send_signal(signal.SIGSTOP)  # like a vanished machine: the server does not notice
        text = file(sshd, remote("one", port, echo.port, onConflict=policy), remote("two", other, echo.port))
        async with running(tmp_path, text) as tunnels:
            await tunnels.until("server/two", Phase.UP)
            verdict = await tunnels.until("server/one", Phase.STANDBY if policy == "standby" else Phase.DOWN)
            if policy == "retry":
                assert verdict.reason == "remote_port_in_use"
                assert not verdict.needs_action, "it may be free at any moment"
            assert verdict.next_try is not None
            assert await exchange("127.0.0.1", other) == b"ping", "the other tunnel is not affected"
            ssh.kill()
            await tunnels.all_up()
            assert await exchange("127.0.0.1", port) == b"ping"
            assert max(link.number for link in tunnels.links) == 1, "the connection is not replaced"


async def answers(port: int) -> bool:
    try:
        return await exchange("127.0.0.1", port) == b"ping"
    except ConnectionError:
        return False
