"""`diagnose`: which step of a tunnel fails, why, what to do, and when the next try is."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest

from reconciler.config.load import load_text
from reconciler.core.observed import Phase, SocketPhase
from reconciler.runtime.diagnose import WITHIN
from support.dropbear import Dropbear
from support.endpoints import Whole, whole
from support.faults import Blackhole
from support.keys import Keys
from support.services import EchoServer, RefusingPort, TcpService, connected
from support.sshd import Sshd
from support.tunnels import file, local, remote, target, tunnel
from support.wait import eventually, free_port

LOGGED_IN = ["server: connect", "server: host key", "server: log in"]


class Steps:
    """The steps that `diagnose` returned."""

    def __init__(self, steps: list[dict[str, Any]]) -> None:
        assert all(step.keys() == {"step", "ok", "detail", "fix"} for step in steps)
        assert all(step["ok"] or (step["detail"] and step["fix"]) for step in steps), "each has something to do"
        self.names = [step["step"] for step in steps]
        self.wrong = [step for step in steps if not step["ok"]]
        self.detail = {step["step"]: step["detail"] for step in steps}

    def only_wrong(self, step: str) -> tuple[str, str]:
        """Detail and fix of the one step that fails."""
        [wrong] = self.wrong
        assert wrong["step"] == step
        return wrong["detail"], wrong["fix"]


async def diagnosed(it: Whole, tunnel: str) -> Steps:
    """The steps, once no listener is opening any more."""

    def is_opened() -> bool:
        sockets = it.tunnels.engine.actuator.observe().sockets.values()
        return not any(socket.phase is SocketPhase.OPENING for socket in sockets)

    await eventually(is_opened)
    return Steps((await it.control.get("/api/v1/diagnose", id=tunnel))["steps"])


async def test_every_step_of_a_tunnel_that_is_up(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, there = free_port(), free_port()
    async with whole(tmp_path, file(sshd, local("out", port, echo.port), remote("back", there, echo.port))) as it:
        await it.tunnels.all_up()
        out, back = await diagnosed(it, "server/out"), await diagnosed(it, "server/back")
        assert out.names == ["listen on this machine", *LOGGED_IN, "destination"]
        assert back.names == [*LOGGED_IN, "listen on the server", "destination"]
        assert out.wrong == back.wrong == []
        assert out.detail["listen on this machine"] == f"127.0.0.1:{port}"
        assert out.detail["server: host key"] == "checked"
        assert str(there) in back.detail["listen on the server"]
        assert "several" in (await it.control.get("/api/v1/diagnose", 404, id="server"))["error"]


async def test_the_hop_that_fails_and_nothing_behind_it(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    dead = free_port()
    text = (
        file(sshd, local("closed", free_port(), free_port()))
        + target(sshd, "dead", port=dead)
        + local("never", free_port(), echo.port)
        + target(sshd, "stranger", hostKeys='["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI' + "A" * 43 + '"]')
        + local("never", free_port(), echo.port)
        + target(sshd, "beyond", jumpHost="dead")
        + local("never", free_port(), echo.port)
        + target(sshd, "behind", port=dead, jumpHost="server")
        + local("never", free_port(), echo.port)
    )
    async with whole(tmp_path, text) as it:
        await it.tunnels.until("server/closed", Phase.UP)
        for name in ("dead", "stranger", "beyond", "behind"):
            await it.tunnels.until(f"{name}/never", Phase.DOWN)
        closed = await diagnosed(it, "server/closed")
        assert "refuses" in closed.only_wrong("destination")[0]
        assert closed.names[-1] == "destination"
        detail, fix = (await diagnosed(it, "dead/never")).only_wrong("server: connect")
        assert f"{dead} refuses connections" in detail
        assert "start the SSH server" in fix
        stranger = await diagnosed(it, "stranger/never")
        assert stranger.names == ["listen on this machine", "server: connect", "server: host key"]
        assert "Needs action" in stranger.only_wrong("server: host key")[0]
        assert (await diagnosed(it, "beyond/never")).only_wrong("jump host 1: connect")
        behind = await diagnosed(it, "behind/never")
        assert behind.names == [
            "listen on this machine",
            *(one.replace("server", "jump host 1") for one in LOGGED_IN),
            "server: connect",
        ]
        assert "the jump host cannot connect to" in behind.only_wrong("server: connect")[0]


async def test_when_it_is_tried_again_and_whether_a_person_is_needed(sshd: Sshd, keys: Keys, tmp_path: Path) -> None:
    key = keys.make("stranger")
    text = "targets:\n" + target(sshd, privateKey=key.private) + local("db", free_port(), 1)
    async with whole(tmp_path, text) as it:
        await it.tunnels.until("server/db", Phase.DOWN)
        refused = await diagnosed(it, "server/db")
        assert refused.names[1:] == LOGGED_IN
        detail, fix = refused.only_wrong("server: log in")
        assert f"refused the login of {sshd.user} with key {key.private}" in detail
        assert "Needs action: retrying fails until this is fixed. Next try in " in detail
        assert "authorized_keys" in fix
        sshd.authorize(key)
        async with EchoServer() as service:
            edited = text.replace("remotePort: 1}", f"remotePort: {service.port}}}")
            it.tunnels.edit(edited)
            await it.control.post("/api/v1/reload")
            detail, fix = (await diagnosed(it, "server/db")).only_wrong("tunnel")
            assert detail.startswith("down (auth): ")
            assert "Next try in " in detail
            assert fix == "every step succeeds now: run `tunnels restart server/db` to try at once"


async def test_a_login_that_fails_while_the_connection_is_up(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with whole(tmp_path, file(sshd, local("echo", free_port(), echo.port))) as it:
        await it.tunnels.all_up()
        sshd.authorized_keys.write_text("")
        detail, _ = (await diagnosed(it, "server/echo")).only_wrong("server: log in")
        assert "The live connection stays in service." in detail


async def test_an_unusable_key_fails_before_the_server_is_dialled(sshd: Sshd, keys: Keys, tmp_path: Path) -> None:
    locked = keys.make("locked", passphrase="secret")
    text = "targets:\n" + target(sshd, privateKey=locked.private) + local("db", free_port(), 1)
    async with whole(tmp_path, text) as it:
        await it.tunnels.until("server/db", Phase.DOWN)
        steps = await diagnosed(it, "server/db")
        assert steps.names == ["listen on this machine", "server: credentials"]
        detail, fix = steps.only_wrong("server: credentials")
        assert detail.startswith(f"the private key {locked.private} is encrypted. Needs action")
        assert fix == "give its `passphrase`"


async def test_a_port_that_is_not_ssh(sshd: Sshd, tmp_path: Path) -> None:
    class Web(TcpService):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with Web() as web:
        text = "targets:\n" + target(sshd, port=web.port) + local("db", free_port(), 1)
        async with whole(tmp_path, text) as it:
            await it.tunnels.until("server/db", Phase.DOWN)
            detail, fix = (await diagnosed(it, "server/db")).only_wrong("server: connect")
            assert "answered `HTTP/1.1 400 Bad Request`, which is not SSH." in detail
            assert fix == "correct the port"


async def test_a_hop_that_never_answers_is_named(sshd: Sshd, tmp_path: Path) -> None:
    with Blackhole() as hole:
        text = "targets:\n" + target(sshd, port=hole.port, connectTimeout="2s") + local("db", free_port(), 1)
        async with whole(tmp_path, text) as it:
            await it.tunnels.until("server/db", Phase.DOWN)
            detail, fix = (await diagnosed(it, "server/db")).only_wrong("server: connect")
            assert "did not answer within 2 s" in detail
            assert "firewalls" in fix


async def test_the_time_limit_names_the_hop(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.runtime.diagnose.WITHIN", 0.2)
    with Blackhole() as hole:
        text = "targets:\n" + target(sshd, port=hole.port) + local("db", free_port(), 1)
        async with whole(tmp_path, text) as it:
            await it.tunnels.until("server/db", Phase.CONNECTING)
            detail, _ = (await diagnosed(it, "server/db")).only_wrong("server: connect")
            limit = "This test waits no longer; `connectTimeout` is 15 s."
            assert detail == f"127.0.0.1:{hole.port} did not answer within 0.2 s. {limit}"


async def test_the_time_limit_names_the_destination(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.runtime.diagnose.WITHIN", 5.0)  # enough to log in, less than `dialTimeout`
    with Blackhole() as hole:
        text = file(sshd, local("out", free_port(), hole.port), remote("back", free_port(), hole.port))
        async with whole(tmp_path, text) as it:
            await it.tunnels.all_up()
            for steps in await asyncio.gather(diagnosed(it, "server/out"), diagnosed(it, "server/back")):
                detail, fix = steps.only_wrong("destination")
                assert detail == f"127.0.0.1:{hole.port} did not answer within 5 s in all."
                assert "firewalls" in fix


def test_the_time_limit_leaves_the_command_time_to_answer_within_ten_seconds() -> None:
    dial_timeout = load_text("targets: {a: {host: b, user: u, agent: true}}").desired.targets["a"].settings.dial_timeout
    assert min(10.0, dial_timeout) > WITHIN


# --- listening --------------------------------------------------------------------------------------------------


async def test_a_local_port_that_is_taken(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        async with whole(tmp_path, file(sshd, local("echo", port, echo.port))) as it:
            await it.tunnels.until("server/echo", Phase.DOWN)
            steps = await diagnosed(it, "server/echo")
            assert steps.names == ["listen on this machine", *LOGGED_IN, "destination"], "later steps are reported too"
            detail, fix = steps.only_wrong("listen on this machine")
            assert f"127.0.0.1:{port} is in use by this process itself." in detail
            assert "Needs action" not in detail
            assert fix == "stop it, or choose another port"


async def test_a_local_port_that_an_outgoing_connection_has(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with connected("127.0.0.1", echo.port) as (_, writer):
        port = writer.get_extra_info("sockname")[1]
        async with whole(tmp_path, file(sshd, local("echo", port, echo.port))) as it:
            await it.tunnels.until("server/echo", Phase.DOWN)
            detail, fix = (await diagnosed(it, "server/echo")).only_wrong("listen on this machine")
            assert "is in use by an earlier or outgoing connection; no program listens on it." in detail
            assert "ip_local_port_range" in fix


async def test_an_address_that_this_machine_does_not_have(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with whole(tmp_path, file(sshd, local("echo", free_port(), echo.port, localHost="192.0.2.1"))) as it:
        await it.tunnels.until("server/echo", Phase.DOWN)
        detail, _ = (await diagnosed(it, "server/echo")).only_wrong("listen on this machine")
        assert "(this machine has no such address). Needs action" in detail


async def test_a_remote_port_that_is_taken_and_one_that_is_forbidden(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    async with Sshd(tmp_path / "strict", options={"AllowTcpForwarding": "local"}) as strict:
        taken = remote("taken", echo.port, echo.port)
        text = file(sshd, taken) + target(strict, "strict") + remote("back", free_port(), echo.port)
        async with whole(tmp_path, text) as it:
            await it.tunnels.until("server/taken", Phase.DOWN)
            await it.tunnels.until("strict/back", Phase.DOWN)
            steps = await diagnosed(it, "server/taken")
            assert steps.names == [*LOGGED_IN, "listen on the server", "destination"]
            detail, fix = steps.only_wrong("listen on the server")
            assert f"refuses to listen on 127.0.0.1:{echo.port}" in detail
            assert "free the port on the server" in fix
            detail, fix = (await diagnosed(it, "strict/back")).only_wrong("listen on the server")
            assert "does not allow listening" in detail
            assert "Needs action" in detail
            assert "AllowTcpForwarding" in fix


async def test_a_listener_that_the_server_has_narrowed_to_loopback(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    wide, named = free_port(), free_port()
    text = file(
        sshd,
        remote("wide", wide, echo.port, remoteHost="'*'"),
        remote("named", named, echo.port, remoteHost="192.0.2.7"),
        remote("near", free_port(), echo.port),
    )
    async with whole(tmp_path, text) as it:
        await it.tunnels.all_up()
        told = {one["name"]: one["message"] for one in (await it.control.get("/api/v1/status"))["tunnels"]}
        narrowed = "sshd without GatewayPorts listens on loopback only, without an error"
        unknown = f"not confirmed: {narrowed} (`tunnels diagnose` finds out)"
        assert told == {
            "wide": f"all interfaces are requested, which is {unknown}",
            "named": f"192.0.2.7 is {unknown}",
            "near": None,
        }
        for name, host in (("wide", "*"), ("named", "192.0.2.7")):
            detail, fix = (await diagnosed(it, f"server/{name}")).only_wrong("interfaces")
            assert f"the server listens on its loopback only, not on {host}." in detail
            assert fix == "set `GatewayPorts clientspecified` in its sshd_config, or set `remoteHost: 127.0.0.1`"
        assert "interfaces" not in (await diagnosed(it, "server/near")).names


@pytest.mark.parametrize(("ports", "host"), [("yes", "all interfaces"), ("clientspecified", "0.0.0.0")])
async def test_a_listener_that_is_not_narrowed(ports: str, host: str, echo: EchoServer, tmp_path: Path) -> None:
    async with Sshd(tmp_path / "sshd", options={"GatewayPorts": ports}) as sshd:
        async with whole(tmp_path, file(sshd, remote("back", free_port(), echo.port, remoteHost="0.0.0.0"))) as it:
            await it.tunnels.all_up()
            steps = await diagnosed(it, "server/back")
            assert steps.wrong == []
            assert steps.detail["interfaces"] == f"the server listens on {host}"


async def test_a_dropbear_that_listens_on_loopback_only(dropbear: Dropbear, echo: EchoServer, tmp_path: Path) -> None:
    async with whole(tmp_path, file(dropbear, remote("back", free_port(), echo.port, remoteHost="0.0.0.0"))) as it:
        await it.tunnels.all_up()
        _, fix = (await diagnosed(it, "server/back")).only_wrong("interfaces")
        assert fix == "start Dropbear with -a, or set `remoteHost: 127.0.0.1`"


async def test_a_standby_passes(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = file(sshd, remote("back", echo.port, echo.port, onConflict="standby"))
    text += target(sshd, "lazy", connect="onDemand") + local("echo", free_port(), echo.port)
    async with whole(tmp_path, text) as it:
        await it.tunnels.until("server/back", Phase.STANDBY)
        await it.tunnels.until("lazy/echo", Phase.STANDBY)
        back = await diagnosed(it, "server/back")
        assert back.wrong == []
        assert "takes over when the port is free" in back.detail["listen on the server"]
        lazy = await diagnosed(it, "lazy/echo")
        assert lazy.wrong == []
        assert lazy.detail["tunnel"] == "connects when the first client arrives"


# --- the tunnel itself, and its destination ---------------------------------------------------------------------


async def test_a_tunnel_that_is_off_is_reported_first_with_how_to_turn_it_on(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    text = (
        file(
            sshd,
            local("paused", free_port(), echo.port),
            local("disabled", free_port(), echo.port, enabled="false"),
            local("expired", free_port(), echo.port, expiresAt="2020-01-02T03:04:05Z"),
        )
        + target(sshd, "unused", enabled="false")
        + local("db", free_port(), echo.port)
    )
    async with whole(tmp_path, text) as it:
        await it.tunnels.until("server/paused", Phase.UP)
        await it.control.post("/api/v1/pause", ids=["server/paused"])
        wanted = {
            "server/paused": ("the tunnel is paused", "run `tunnels resume server/paused`"),
            "server/disabled": ("the tunnel is disabled", "set `enabled: true` for the tunnel in its file"),
            "server/expired": ("the tunnel is expired (2020-01-02T03:04:05", "set a later `expiresAt`"),
            "unused/db": ("its target unused is disabled", "set `enabled: true` for its target unused in its file"),
        }
        for name, (detail, fix) in wanted.items():
            steps = await diagnosed(it, name)
            assert steps.names == ["tunnel"], name
            assert steps.only_wrong("tunnel")[0].startswith(detail)
            assert steps.only_wrong("tunnel")[1].startswith(fix)


async def test_a_probe_that_fails_though_the_destination_answers(sshd: Sshd, tmp_path: Path) -> None:
    class Web(TcpService):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while (await reader.readline()).strip():
                pass
            writer.write(b"HTTP/1.1 404 Not Found\r\n\r\n")

    health = "{type: http, path: /health, interval: 100ms, timeout: 2s, failureThreshold: 2}"
    async with Web() as web:
        async with whole(tmp_path, file(sshd, local("web", free_port(), web.port, health=health))) as it:
            await it.tunnels.until("server/web", Phase.UNHEALTHY)
            steps = await diagnosed(it, "server/web")
            assert steps.names == ["listen on this machine", *LOGGED_IN, "destination", "probe"]
            detail, fix = steps.only_wrong("probe")
            assert "GET /health answered 404 Not Found." in detail
            assert "times in a row. Probed every 0.1 s." in detail
            assert "`health`" in fix


async def test_a_destination_that_is_back_and_has_had_no_client_yet(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    with RefusingPort() as place:
        async with whole(tmp_path, file(sshd, local("db", port, place.port))) as it:
            await it.tunnels.all_up()

            async def refused() -> bool:
                async with connected("127.0.0.1", port) as (reader, _):
                    with contextlib.suppress(ConnectionResetError):
                        await reader.read()
                return it.tunnels.phases()["server/db"] is Phase.UNHEALTHY

            await eventually(refused)
            assert "refuses" in (await diagnosed(it, "server/db")).only_wrong("destination")[0]
            place.__exit__()
            async with EchoServer(port=place.port):
                detail, fix = (await diagnosed(it, "server/db")).only_wrong("tunnel")
            assert detail.startswith("unhealthy (destination): ")
            assert fix.startswith("every step succeeds now: the tunnel")


async def test_a_socks_tunnel_whose_passwords_cannot_be_read(sshd: Sshd, tmp_path: Path) -> None:
    auth = f"{{username: u, password: {{file: {tmp_path / 'nowhere'}}}}}"
    async with whole(tmp_path, file(sshd, tunnel("proxy", "socks", localPort=free_port(), auth=auth))) as it:
        await it.tunnels.until("server/proxy", Phase.UNHEALTHY)
        detail, fix = (await diagnosed(it, "server/proxy")).only_wrong("tunnel")
        assert "nowhere" in detail
        assert "check that it exists" in fix
