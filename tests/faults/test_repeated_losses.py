"""Connections that are cut again and again after the same idle time: the status says so, and which field helps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reconciler.core import losses
from reconciler.core.observed import Phase, Reason
from reconciler.runtime.diagnose import diagnose
from support.faults import CloseOnAccept, SlowBanner, TcpProxy
from support.sshd import Sshd
from support.tunnels import Running, file, local, running
from support.wait import eventually, free_port

IDLE = 0.3  # seconds


async def cut_when_idle(tunnels: Running, proxy: TcpProxy) -> None:
    await tunnels.all_up()
    [link] = tunnels.links
    await eventually(lambda: link.idle >= IDLE)
    await proxy.cut()
    await eventually(lambda: link.gone)


def message(tunnels: Running) -> str:
    return tunnels.engine.status.targets[0].verdict.message if tunnels.engine.status is not None else ""


async def test_a_firewall_that_drops_idle_connections_is_named(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "SHORTEST", IDLE)
    port = free_port()
    async with TcpProxy(sshd.host, sshd.port) as proxy:
        text = file(sshd, local("l", port, 1), port=proxy.port, knownHosts=known(sshd, proxy.port, tmp_path))
        async with running(
            tmp_path, text.replace("    tunnels:", "    keepaliveInterval: 0s\n    tunnels:")
        ) as tunnels:
            for _ in range(losses.REPEATED - 1):
                await cut_when_idle(tunnels, proxy)
                assert "keepaliveInterval" not in message(tunnels)
            await cut_when_idle(tunnels, proxy)
            await tunnels.all_up()
            assert re.search(r"connections ended after about \d s without data", message(tunnels))
            assert re.search(r"`keepaliveInterval: \d+ms`", message(tunnels))
            [tunnel] = tunnels.engine.desired.tunnels.values()
            steps = await diagnose(tunnel, tunnels.engine)
            assert any("keepaliveInterval" in step.detail for step in steps)


def known(sshd: Sshd, port: int, directory: Path) -> Path:
    """Return a known_hosts file with the server's key for another port."""
    path = directory / "known"
    path.write_text(sshd.known_hosts.read_text().replace(f":{sshd.port} ", f":{port} "))
    return path


async def test_a_load_balancer_without_a_server_is_named(sshd: Sshd, tmp_path: Path) -> None:
    async with CloseOnAccept() as closing:
        async with running(tmp_path, file(sshd, local("l", free_port(), 1), port=closing.port)) as tunnels:
            verdict = await tunnels.until("server/l", Phase.DOWN)
    assert verdict.reason is Reason.SERVER_BUSY
    assert "a load balancer or port forward without a server behind it" in verdict.message


async def test_a_path_that_drops_full_size_packets_is_named(sshd: Sshd, tmp_path: Path) -> None:
    async with SlowBanner(interval=0) as hanging:
        text = file(sshd, local("l", free_port(), 1), port=hanging.port, connectTimeout="300ms")
        async with running(tmp_path, text) as tunnels:
            verdict = await tunnels.until("server/l", Phase.DOWN)
            assert verdict.reason is Reason.TIMEOUT
            assert "drop full-size packets" in verdict.message
            assert "`algorithms: {kex: [curve25519-sha256]}`" in verdict.message
            [tunnel] = tunnels.engine.desired.tunnels.values()
            steps = await diagnose(tunnel, tunnels.engine)
            assert [step.step for step in steps if not step.ok] == ["server: key exchange"]
