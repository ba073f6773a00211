"""The round trip time that the status and the metrics show for a target."""

from __future__ import annotations

from pathlib import Path

from support.endpoints import whole
from support.faults import TcpProxy
from support.metrics import scrape
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import local, target
from support.wait import eventually, free_port

LATENCY = 0.05  # seconds, one way


async def test_the_round_trip_includes_jump_hosts(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with TcpProxy(sshd.host, sshd.port, latency=LATENCY) as slow:
        known_hosts = tmp_path / "known_hosts"
        known_hosts.write_text(
            "".join(f"[127.0.0.1]:{port} {sshd.host_public_key}\n" for port in (sshd.port, slow.port))
        )
        jump = f"{{host: {sshd.host}, port: {sshd.port}, user: {sshd.user}, privateKey: {sshd.client_key}}}"
        behind = target(sshd, "behind", port=slow.port, jumpHost=jump, keepaliveInterval="200ms", knownHosts=None)
        text = (
            f"defaults: {{target: {{knownHosts: {known_hosts}}}}}\ntargets:\n"
            + behind
            + local("echo", free_port(), echo.port)
        )
        async with whole(tmp_path, text) as it:
            await it.tunnels.all_up()

            async def round_trip() -> float | None:
                [server] = (await it.control.get("/api/v1/status"))["targets"]
                seconds: float | None = server["rttSeconds"]
                return seconds

            seconds = await eventually(round_trip, message="an answer to a keepalive")
            assert seconds is not None
            assert seconds > LATENCY, "not that of the jump host, which is near"
            assert (await scrape(it.http)).value("ssh_target_rtt_seconds", target="behind") > LATENCY
