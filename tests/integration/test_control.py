"""The control socket: its queries, and its changes of the running process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from reconciler import __version__
from reconciler.config.load import load_files
from reconciler.core.observed import Phase
from reconciler.runtime.endpoints import EndpointError, Endpoints, serving
from reconciler.system.peer_credentials import peer_uid
from support.endpoints import whole
from support.services import EchoServer, connected, exchange
from support.sshd import Sshd
from support.tunnels import file, local, running, socks, target
from support.wait import eventually, free_port

TARGET_KEYS = {
    *("name", "phase", "reason", "message", "needsAction", "nextTryAt", "nextTryWait", "host", "since", "reconnects"),
    *("cipher", "kex", "rttSeconds", "hostKeyVerified"),
    *("hosts", "via"),  # not in the contract: for the page
}
TUNNEL_KEYS = {
    *("id", "target", "name", "type", "phase", "up", "reason", "message", "needsAction", "nextTryAt", "nextTryWait"),
    *("listen", "dial"),
    *("connections", "held", "bytesSent", "bytesReceived", "reconnects", "since", "description", "labels"),
    "lastClientFailure",
    "expiresAt",  # not in the contract: for the page
}


@contextlib.asynccontextmanager
async def talking(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Connect a client and wait until its channel is open."""
    async with connected("127.0.0.1", port) as (reader, writer):
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        yield reader, writer


async def test_status_has_the_fields_of_the_contract(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with whole(tmp_path, file(sshd, local("echo", port, echo.port, labels="{team: data}"))) as it:
        await it.tunnels.all_up()
        await exchange("127.0.0.1", port, b"four")
        status = await it.control.get("/api/v1/status")
        assert status.keys() == {"version", "instance", "config", "targets", "tunnels"}
        assert (status["version"], status["instance"]) == (__version__, socket.gethostname().partition(".")[0])
        assert status["config"]["revision"].startswith("sha256:")
        assert status["config"]["files"] == [{"path": str(it.tunnels.file), "valid": True, "error": None}]
        [server], [tunnel] = status["targets"], status["tunnels"]
        assert server.keys() == TARGET_KEYS
        assert tunnel.keys() == TUNNEL_KEYS
        assert server["kex"] in ("mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org")
        assert server["hostKeyVerified"] is True
        assert 0 < server["rttSeconds"] < 10
        assert (tunnel["listen"], tunnel["dial"]) == (f"127.0.0.1:{port}", f"127.0.0.1:{echo.port}")
        assert (tunnel["bytesSent"], tunnel["bytesReceived"], tunnel["up"]) == (4, 4, True)
        assert tunnel["labels"] == {"team": "data"}


async def test_restart_is_make_before_break(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with whole(tmp_path, file(sshd, local("echo", port, echo.port))) as it:
        await it.tunnels.all_up()
        old = it.tunnels.links[0].number
        async with talking(port) as (reader, writer):
            assert await it.control.post("/api/v1/restart", ids=["server"]) == {"done": ["server/echo"]}
            await eventually(lambda: any(link.number != old for link in it.tunnels.links))
            await it.control.get("/api/v1/wait")
            assert await exchange("127.0.0.1", port) == b"ping"
            writer.write(b"y")
            assert await reader.readexactly(1) == b"y", "a live client stays on the old link"
        await eventually(lambda: [link.number for link in it.tunnels.links if link.number == old] == [])


async def test_restart_now_cuts_and_the_port_stays(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with whole(tmp_path, file(sshd, local("echo", port, echo.port))) as it:
        await it.tunnels.all_up()
        old = it.tunnels.links[0].number
        async with talking(port) as (reader, _):
            await it.control.post("/api/v1/restart", ids=["server/*"], now=True)
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
        assert await exchange("127.0.0.1", port) == b"ping"
        assert all(link.number != old for link in it.tunnels.links)


async def test_restart_now_of_one_tunnel_cuts_no_other_clients(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    one, other = free_port(), free_port()
    async with whole(tmp_path, file(sshd, local("one", one, echo.port), local("other", other, echo.port))) as it:
        await it.tunnels.all_up()
        async with talking(one) as (reader, _), talking(other) as (other_reader, other_writer):
            done = await it.control.post("/api/v1/restart", ids=["server/one"], now=True)
            assert done == {"done": ["server/one", "server/other"]}, "both tunnels get the new link"
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            other_writer.write(b"y")
            assert await other_reader.readexactly(1) == b"y"


async def test_an_unknown_name_is_an_error_that_lists_the_known_names(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    async with whole(tmp_path, file(sshd, local("echo", free_port(), echo.port))) as it:
        await it.tunnels.all_up()
        for verb in ("restart", "pause", "resume"):
            answer = await it.control.post(f"/api/v1/{verb}", 404, ids=["x"])
            assert answer == {"error": 'no tunnel matches "x": known tunnels are server/echo'}
        assert "expected a list of tunnels" in (await it.control.post("/api/v1/pause", 400, ids=[]))["error"]
        assert (await it.control.get("/api/v1/nothing", 404)).keys() == {"error"}
        assert (await it.control.get("/api/v1/restart", 405)).keys() == {"error"}


async def test_a_pause_survives_a_reload_and_ends_by_itself(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    one, other = free_port(), free_port()
    text = file(sshd, local("one", one, echo.port), local("other", other, echo.port))
    async with whole(tmp_path, text) as it:
        await it.tunnels.all_up()
        assert await it.control.post("/api/v1/pause", ids=["server/one"]) == {"done": ["server/one"]}
        assert (await it.tunnels.until("server/one", Phase.OFF)).message == "paused"
        it.tunnels.edit(text.replace("labels", "labels") + "    enabled: true\n")
        assert (await it.control.post("/api/v1/reload"))["valid"] is True
        assert it.tunnels.phases()["server/one"] is Phase.OFF
        with pytest.raises(ConnectionRefusedError):
            await exchange("127.0.0.1", one)
        assert await exchange("127.0.0.1", other) == b"ping"
        await it.control.post("/api/v1/resume", ids=["server/one"])
        await it.tunnels.until("server/one", Phase.UP)
        changes = it.tunnels.changes
        changes.clear()
        await it.control.post("/api/v1/pause", ids=["server"], seconds=2.0)
        # The pause may be over before the test sees it.
        await eventually(lambda: any(one.before is Phase.OFF for one in changes if one.subject.name == "server/one"))
        await it.tunnels.all_up()


async def test_reload_returns_the_errors(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = file(sshd, local("echo", free_port(), echo.port))
    async with whole(tmp_path, text) as it:
        await it.tunnels.all_up()
        good = (await it.control.post("/api/v1/reload"))["revision"]
        it.tunnels.edit(text.replace("localPort", "localPrt"))
        answer = await it.control.post("/api/v1/reload")
        assert answer["valid"] is False
        assert answer["revision"] == good
        assert any("did you mean `localPort`" in error for error in answer["errors"])


async def test_wait_returns_when_a_revision_has_converged(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    text = file(sshd, local("echo", port, echo.port))
    async with whole(tmp_path, text) as it:
        assert await it.control.get("/api/v1/wait") == {"ok": True}
        moved = free_port()
        new = text.replace(str(port), str(moved))
        revision = await revision_of(tmp_path / "new", new)
        waiting = asyncio.create_task(it.control.get("/api/v1/wait", revision=revision, ids="server/echo"))
        it.tunnels.edit(new)
        assert await waiting == {"ok": True}
        assert await exchange("127.0.0.1", moved) == b"ping"


async def test_wait_for_a_rejected_revision_fails_at_once(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = file(sshd, local("echo", free_port(), echo.port))
    async with whole(tmp_path, text) as it:
        await it.tunnels.all_up()
        bad = text.replace("localPort", "localPrt")
        it.tunnels.edit(bad)
        rejected = await it.control.post("/api/v1/reload")
        assert rejected["valid"] is False
        assert it.tunnels.app.loaded is not None
        answer = await it.control.get("/api/v1/wait", 409, revision=it.tunnels.app.loaded.rejected, timeout="60")
        assert "tunnels.yaml:" in answer["error"]
        assert "localPrt" in answer["error"]


async def test_wait_times_out_and_names_what_is_missing(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = file(sshd, local("echo", free_port(), echo.port)) + target(sshd, "dead", port=free_port())
    async with whole(tmp_path, text + local("never", free_port(), echo.port)) as it:
        await it.tunnels.until("dead/never", Phase.DOWN)
        assert await it.control.get("/api/v1/wait", ids="server/*") == {"ok": True}
        answer = await it.control.get("/api/v1/wait", 408, timeout="0.05")
        assert "dead/never is down (refused)" in answer["error"]
        assert 'no tunnel matches "x"' in (await it.control.get("/api/v1/wait", 404, ids="x"))["error"]


async def test_connections_are_listed_live_and_held(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, held = free_port(), free_port()
    text = file(sshd, local("echo", port, echo.port)) + target(sshd, "dead", port=free_port())
    async with whole(tmp_path, text + local("held", held, echo.port, holdTimeout="60s")) as it:
        await it.tunnels.until("server/echo", Phase.UP)
        await it.tunnels.until("dead/held", Phase.DOWN)
        async with talking(port) as (_, writer), connected("127.0.0.1", held):
            ours = "{}:{}".format(*writer.get_extra_info("sockname"))

            async def both() -> list[dict[str, Any]]:
                found: list[dict[str, Any]] = (await it.control.get("/api/v1/connections"))["connections"]
                return found if len(found) == 2 else []

            live, waiting = await eventually(both)
            assert (live["tunnel"], live["from"], live["to"]) == ("server/echo", ours, f"127.0.0.1:{echo.port}")
            assert (live["bytesSent"], live["bytesReceived"], live["state"]) == (1, 1, "live")
            assert (waiting["tunnel"], waiting["state"], waiting["link"]) == ("dead/held", "held", None)
        await eventually(
            lambda: all(client.tunnel.id != "server/echo" for client in it.tunnels.engine.actuator.connections())
        )


async def test_a_held_socks_client_is_listed_with_its_request_and_present_tunnel(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "alice").write_text("in wonderland")
    line = socks("old", port, auth=f"{{username: alice, password: {{file: {tmp_path / 'alice'}}}}}")
    text = file(sshd, line)
    async with whole(tmp_path, text) as it:
        await it.tunnels.all_up()
        await sshd.stop()
        await it.tunnels.until("server/old", Phase.DOWN)
        async with connected("127.0.0.1", port) as (_, writer):
            writer.write(b"\x05\x01\x02" + b"\x01\x05alice\x0din wonderland")
            writer.write(b"\x05\x01\x00\x01\x7f\x00\x00\x01\x01\xbb")
            await eventually(lambda: it.tunnels.meter("server/old").held == 1)
            it.tunnels.edit(text.replace("name: old", "name: new"))

            async def renamed() -> dict[str, Any]:
                client: dict[str, Any]
                [client] = (await it.control.get("/api/v1/connections"))["connections"]
                return client if client["tunnel"] == "server/new" else {}

            held = await eventually(renamed)
            assert (held["to"], held["user"], held["state"]) == ("127.0.0.1:443", "alice", "held")


async def test_a_plan_lists_actions_and_counts_clients(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    text = file(sshd, local("echo", port, echo.port))
    async with whole(tmp_path, text) as it:
        await it.tunnels.all_up()
        async with talking(port):
            same = await it.control.post("/api/v1/plan", files=files(tmp_path, text))
            assert same == {"actions": [], "clients": 0, "errors": [], "warnings": []}
            plan = await it.control.post("/api/v1/plan", files=files(tmp_path, text.replace(str(port), "1")))
            steps = {(step["action"], step["subject"]): step["clients"] for step in plan["actions"]}
            assert steps == {
                ("close", "tunnel server/echo"): 0,
                ("drain", "tunnel server/echo"): 1,
                ("open", "tunnel server/echo"): 0,
            }
            bad = await it.control.post("/api/v1/plan", files=files(tmp_path, "targets: 1\n"))
            assert bad["actions"] == []
            assert "tunnels.yaml:1" in bad["errors"][0]
        assert it.tunnels.phases() == {"server/echo": Phase.UP}, "the plan changed something"


async def test_events_are_kept_and_streamed(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with whole(tmp_path, file(sshd, local("echo", free_port(), echo.port))) as it:
        await it.tunnels.all_up()
        events = (await it.control.get("/api/v1/events"))["events"]
        assert events[0]["subject"] == "config"
        assert events[0]["phase"] == "valid"
        assert {(event["subject"], event["phase"]) for event in events} >= {
            ("tunnel server/echo", "up"),
            ("target server", "up"),
        }
        async with it.control.session.get("/api/v1/events", params={"follow": "1"}) as following:
            seen = [await next_event(following.content) for _ in events]
            assert seen == events
            await it.control.post("/api/v1/pause", ids=["*"])
            assert (await next_event(following.content))["phase"] == "paused"
            changed = await next_event(following.content)
            assert (changed["before"], changed["phase"], changed["message"]) == ("up", "off", "paused")


async def test_the_socket_is_private_and_a_live_one_is_not_replaced(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    text = file(sshd, local("echo", free_port(), echo.port))
    async with whole(tmp_path, text) as it:
        await it.tunnels.all_up()
        assert stat.S_IMODE(Path(it.served.control).stat().st_mode) == 0o600
        (tmp_path / "second").mkdir()
        async with running(tmp_path / "second", "targets: {}\n") as second:
            with pytest.raises(EndpointError, match="in use"):
                async with serving(second.app, Endpoints(listen="none", control=it.served.control)):
                    pass
        assert (await it.control.get("/api/v1/status"))["tunnels"][0]["up"] is True
    assert not Path(it.served.control).exists()


def test_the_uid_of_a_peer_is_known() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_uid(one) == os.getuid()


async def next_event(stream: Any) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            line = (await stream.readline()).decode()
            if line.startswith("data: "):
                event: dict[str, Any] = json.loads(line[6:])
                return event


def files(directory: Path, text: str) -> list[dict[str, str]]:
    return [{"name": str(directory / "tunnels.yaml"), "directory": str(directory), "text": text}]


async def revision_of(directory: Path, text: str) -> str:
    directory.mkdir()
    (directory / "tunnels.yaml").write_text(text)
    return load_files([directory / "tunnels.yaml"], environ={}).revision
