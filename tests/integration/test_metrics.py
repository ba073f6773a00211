"""The metrics of a running process: which series exist, and what they count."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import socket
from functools import partial
from pathlib import Path

import pytest

from reconciler.core.observed import ClientResult, Phase
from reconciler.report.exposition import labels
from reconciler.ssh.relay.client_socket import RESET
from support.endpoints import Client, whole
from support.metrics import OPENMETRICS, Scraped, complaints, scrape
from support.services import EchoServer, connected, exchange, refuses
from support.sshd import Sshd
from support.tunnels import file, local, socks, target
from support.wait import eventually, free_port

ECHO = {"target": "server", "tunnel": "echo"}


async def test_every_series_starts_at_zero(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = file(sshd, local("echo", free_port(), echo.port, description='"it\\"s"'), socks("proxy", free_port()))
    async with whole(tmp_path, text) as it:
        await it.tunnels.all_up()
        page = await scrape(it.http)
        assert complaints(page.text) == ""
        for tunnel, kind in (("echo", "local"), ("proxy", "socks")):
            own = {"target": "server", "tunnel": tunnel, "type": kind}
            assert page.value("ssh_tunnel_up", **own) == 1
            assert {sample["phase"] for sample in page.labels("ssh_tunnel_phase")} == set(Phase)
            assert sum(page.values("ssh_tunnel_phase", **own)) == page.value("ssh_tunnel_phase", phase="up", **own) == 1
            for result in ClientResult:
                assert page.value("ssh_tunnel_connections_total", result=result, **own) == 0
            for direction in ("sent", "received"):
                assert page.value("ssh_tunnel_bytes_total", direction=direction, **own) == 0
            for name in ("active_connections", "held_connections", "reconnects_total"):
                assert page.value(f"ssh_tunnel_{name}", **own) == 0
            assert page.values("ssh_tunnel_failures_total", **own) == []
        assert page.value("ssh_target_up", target="server") == 1
        assert page.value("ssh_target_host_key_verified", target="server") == 1
        assert page.value("ssh_target_rtt_seconds", target="server") > 0
        assert page.value("ssh_target_connect_duration_seconds_count", target="server") == 1
        assert page.value("tunnels_configured") == 2
        assert page.value("tunnels_config_file_valid", file=str(it.tunnels.file)) == 1
        assert page.value("tunnels_reconcile_duration_seconds_count") > 1
        assert page.value("process_cpu_seconds_total") > 0


async def test_off_and_standby_are_not_down(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = (
        file(sshd, local("off", free_port(), echo.port, enabled="false"), local("on", free_port(), echo.port))
        + target(sshd, "lazy", connect="onDemand")
        + local("idle", free_port(), echo.port)
        + target(sshd, "dead", port=free_port())
        + local("down", free_port(), echo.port)
    )
    async with whole(tmp_path, text) as it:
        await it.tunnels.until("dead/down", Phase.DOWN)
        await it.tunnels.until("server/on", Phase.UP)
        page = await scrape(it.http)
        up = {sample["tunnel"]: value for sample, value in zip_up(page)}
        assert up == {"on": 1.0, "down": 0.0}
        assert page.value("ssh_tunnel_phase", tunnel="off", phase="off") == 1
        assert page.value("ssh_tunnel_phase", tunnel="idle", phase="standby") == 1
        assert page.values("ssh_target_up", target="lazy") == []
        assert page.value("ssh_target_failures_total", target="dead", reason="refused") >= 1
        assert page.values("ssh_target_rtt_seconds", target="dead") == []


async def test_an_expired_tunnel_is_off_and_no_failure(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    """At expiresAt the port closes, /readyz stays 200, and no series reports a failure."""
    port, keep = free_port(), local("keep", free_port(), echo.port)

    def text(end: dt.datetime) -> str:
        return file(sshd, local("breakglass", port, echo.port, expiresAt=end.isoformat(timespec="milliseconds")), keep)

    async with whole(tmp_path, text(dt.datetime.now(dt.UTC) + dt.timedelta(hours=1))) as it:
        await it.tunnels.all_up()
        end = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2)
        it.tunnels.edit(text(end))
        await it.control.post("/api/v1/reload")
        page = await scrape(it.http)
        assert page.value("ssh_tunnel_expiry_timestamp_seconds", tunnel="breakglass") == pytest.approx(end.timestamp())
        await eventually(partial(refuses, port))
        await it.tunnels.until("server/breakglass", Phase.OFF)  # it drains first if `refuses` was the last client
        assert await it.http.text("/readyz") == (200, "ok\n")
        page = await scrape(it.http)
        assert page.values("ssh_tunnel_up", tunnel="breakglass") == []
        assert page.value("ssh_tunnel_phase", tunnel="breakglass", phase="off") == 1
        assert page.value("ssh_tunnel_up", tunnel="keep") == 1


async def test_bytes_are_counted_while_they_flow(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with whole(tmp_path, file(sshd, local("echo", port, echo.port))) as it:
        await it.tunnels.all_up()
        async with connected("127.0.0.1", port) as (reader, writer):
            writer.write(b"x" * 1000)
            await reader.readexactly(1000)
            page = await scrape(it.http)
            assert page.value("ssh_tunnel_bytes_total", direction="sent", **ECHO) == 1000
            assert page.value("ssh_tunnel_bytes_total", direction="received", **ECHO) == 1000
            assert page.value("ssh_tunnel_active_connections", **ECHO) == 1
            assert page.value("ssh_tunnel_connections_total", result="ok", **ECHO) == 1
            assert page.value("ssh_target_dial_duration_seconds_count", target="server") == 1


async def test_counters_survive_edits_restarts_and_reconnects(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    text = file(sshd, local("echo", port, echo.port))
    async with whole(tmp_path, text) as it, EchoServer() as other:
        await it.tunnels.all_up()
        await exchange("127.0.0.1", port, b"12345")
        it.tunnels.edit(text.replace(f"remotePort: {echo.port}", f"remotePort: {other.port}, maxConnections: 7"))
        await it.control.post("/api/v1/reload")
        await it.control.get("/api/v1/wait")
        await exchange("127.0.0.1", port, b"12345")
        await it.control.post("/api/v1/restart", ids=["server"], now=True)
        await exchange("127.0.0.1", port, b"12345")
        before = (await scrape(it.http)).value("ssh_tunnel_reconnects_total", **ECHO)
        assert before <= 1, "a restart is a reconnect only after an interruption"
        await sshd.kill_sessions()
        await eventually(lambda: it.tunnels.app.snapshot().tunnels[0].condition.reconnects == before + 1)
        await exchange("127.0.0.1", port, b"12345")
        page = await scrape(it.http)
        assert page.value("ssh_tunnel_bytes_total", direction="sent", **ECHO) == 20
        assert page.value("ssh_tunnel_connections_total", result="ok", **ECHO) == 4
        assert page.value("ssh_tunnel_reconnects_total", **ECHO) == before + 1
        assert page.value("ssh_target_reconnects_total", target="server") == before + 1
        assert page.value("ssh_target_failures_total", target="server", reason="closed_by_server") == 1


async def test_clients_that_leave_before_they_have_a_channel_are_counted(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port, proxy = free_port(), free_port()
    async with whole(tmp_path, file(sshd, local("echo", port, echo.port), socks("proxy", proxy))) as it:
        await it.tunnels.all_up()
        await sshd.stop()
        await eventually(lambda: not it.tunnels.links)
        with socket.create_connection(("127.0.0.1", port)) as held:
            await eventually(lambda: it.tunnels.meter("server/echo").held == 1)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        with socket.create_connection(("127.0.0.1", proxy)) as in_handshake:
            in_handshake.sendall(b"\x05")
        await eventually(lambda: all(it.tunnels.results(f"server/{name}") for name in ("echo", "proxy")))
        page = await scrape(it.http)
        for name in ("echo", "proxy"):
            count = {
                result: page.value("ssh_tunnel_connections_total", target="server", tunnel=name, result=result)
                for result in ClientResult
            }
            assert count == {result: int(result is ClientResult.LEFT) for result in ClientResult}


async def test_a_removed_tunnel_has_series_until_its_last_client_leaves(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    keep = local("keep", free_port(), echo.port)
    async with whole(tmp_path, file(sshd, keep, local("echo", port, echo.port))) as it:
        await it.tunnels.all_up()
        async with connected("127.0.0.1", port) as (reader, writer):
            writer.write(b"x")
            await reader.readexactly(1)
            it.tunnels.edit(file(sshd, keep))
            await it.tunnels.all_up("server/keep")
            page = await scrape(it.http)
            assert page.value("ssh_tunnel_phase", phase="draining", **ECHO) == 1
            assert page.value("ssh_tunnel_bytes_total", direction="sent", **ECHO) == 1
            assert (await it.http.text("/readyz"))[0] == 200
        await eventually(partial(series_are_gone, it.http))


async def test_failures_are_counted_by_reason(sshd: Sshd, tmp_path: Path) -> None:
    port, nobody = free_port(), free_port()
    probe = "{type: tcp, interval: 100ms, timeout: 5s}"
    text = file(sshd, local("echo", port, nobody), local("probed", free_port(), nobody, health=probe))
    async with whole(tmp_path, text) as it:
        await it.tunnels.until("server/echo", Phase.UP)
        for _ in range(3):
            await refused(port)
        await it.tunnels.until("server/echo", Phase.UNHEALTHY)
        await it.tunnels.until("server/probed", Phase.UNHEALTHY)
        page = await scrape(it.http)
        assert page.value("ssh_tunnel_up", **ECHO) == 0
        assert page.value("ssh_tunnel_failures_total", reason="destination", **ECHO) == 3
        assert page.value("ssh_tunnel_connections_total", result="dial_failed", **ECHO) == 3
        assert page.value("ssh_tunnel_probe_success", tunnel="probed") == 0
        assert page.values("ssh_tunnel_probe_success", **ECHO) == []
        assert page.value("ssh_target_probe_duration_seconds_count", target="server") >= 3


async def test_reloads_are_counted_and_an_invalid_file_is_visible(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = file(sshd, local("echo", free_port(), echo.port))
    async with whole(tmp_path, text) as it:
        await it.tunnels.all_up()
        good = await scrape(it.http)
        assert good.value("tunnels_config_last_reload_successful") == 1
        [revision] = good.labels("tunnels_config_info")
        it.tunnels.edit(text.replace("localPort", "localPrt"))
        await it.control.post("/api/v1/reload")
        bad = await scrape(it.http)
        assert bad.value("tunnels_config_last_reload_successful") == 0
        assert bad.value("tunnels_config_file_valid") == 0
        assert bad.labels("tunnels_config_info") == [revision], "the previous revision stays applied"
        assert bad.value("tunnels_config_reloads_total", result="failure") >= 1
        seconds = "tunnels_config_last_reload_success_timestamp_seconds"
        assert bad.value(seconds) == good.value(seconds)


async def test_tunnel_labels_are_shown_only_if_configured(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    mine = local("mine", free_port(), echo.port, labels='{team_a: "d\\"a", secret: x}')
    text = file(sshd, mine, local("other", free_port(), echo.port, expiresAt="2999-01-01T00:00:00Z"))
    async with whole(tmp_path, text, metric_labels=("team_a",)) as it:
        await it.tunnels.all_up()
        page = await scrape(it.http)
        shown = {sample["tunnel"]: sample for sample in page.labels("ssh_tunnel_info")}
        assert shown["mine"]["label_team_a"] == 'd"a'
        assert shown["other"]["label_team_a"] == ""
        assert "secret" not in page.text
        assert shown["mine"]["dial"] == f"127.0.0.1:{echo.port}"
        assert page.value("ssh_tunnel_expiry_timestamp_seconds", tunnel="other") == 32472144000


async def test_openmetrics_is_served_on_request(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with whole(tmp_path, file(sshd, local("echo", free_port(), echo.port))) as it:
        await it.tunnels.all_up()
        page = await scrape(it.http, OPENMETRICS)
        assert page.text.endswith("# EOF\n")
        assert page.value("ssh_tunnel_bytes_total", direction="sent", **ECHO) == 0
        assert page.value("ssh_target_connect_duration_seconds_count") == 1


def test_label_values_are_escaped() -> None:
    assert labels({"a": 'x"y\\z\n', "b": ""}) == r'a="x\"y\\z\n",b=""'
    assert labels({"a": "é\udcff"}) == r'a="é\\udcff"'


async def test_a_file_name_that_is_not_utf_8_breaks_no_scrape(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    async with whole(folder, "targets: {}\n", control=str(tmp_path / "c.sock")) as it:
        for accept in ("", OPENMETRICS):
            page = await scrape(it.http, accept)
            assert page.value("tunnels_config_file_valid", file=f"{tmp_path}/\\udcff/tunnels.yaml") == 1
            assert page.value("tunnels_config_watch_active") == 0
            assert accept or complaints(page.text) == ""


def zip_up(page: Scraped) -> list[tuple[dict[str, str], float]]:
    return [(sample.labels, sample.value) for sample in page.samples if sample.name == "ssh_tunnel_up"]


async def series_are_gone(http: Client) -> bool:
    return not any(sample.labels.get("tunnel") == "echo" for sample in (await scrape(http)).samples)


async def refused(port: int) -> None:
    async with connected("127.0.0.1", port) as (reader, _):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
