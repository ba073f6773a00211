"""The detail of one tunnel in the status JSON: its definition, history, clients and failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reconciler.core.observed import Phase
from support.endpoints import Whole, whole
from support.services import EchoServer, connected, exchange
from support.sshd import Sshd
from support.tunnels import file, local, socks
from support.wait import eventually, free_port


async def detail(it: Whole, tunnel: str) -> Any:
    return (await it.http.get("/api/v1/status", tunnel=tunnel))["detail"]


async def test_the_detail_names_the_line_of_the_definition(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = file(sshd, local("echo", free_port(), echo.port), local("other", free_port(), echo.port))
    async with whole(tmp_path, text) as it:
        await it.tunnels.all_up()
        found = await detail(it, "server/other")
        assert (found["id"], found["file"]) == ("server/other", str(it.tunnels.file))
        assert "name: other" in text.splitlines()[found["line"] - 1]
        it.tunnels.edit("# a comment\n" + text)
        await it.control.post("/api/v1/reload")
        assert (await detail(it, "server/other"))["line"] == found["line"] + 1
        it.tunnels.edit("# two\n# comments\n" + text + "  broken: {}\n")
        await it.control.post("/api/v1/reload")
        assert (await detail(it, "server/other"))["line"] == found["line"] + 1, (
            "the content in use is the last good one"
        )


async def test_only_a_request_for_one_tunnel_has_a_detail(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    async with whole(tmp_path, file(sshd, local("echo", free_port(), echo.port))) as it:
        await it.tunnels.all_up()
        assert "detail" not in await it.http.get("/api/v1/status")
        for unknown in (
            "",
            "server",
            "server/none",
            "server/echo/",
            "../echo",
            "<b>\x00\udc80".encode(errors="replace").decode(),
        ):
            status = await it.http.get("/api/v1/status", tunnel=unknown)
            assert status["detail"] is None
            assert len(status["tunnels"]) == 1


async def test_clients_are_listed_newest_first_without_user_and_destination(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    async with whole(tmp_path, file(sshd, local("echo", port, echo.port), socks("proxy", free_port()))) as it:
        await it.tunnels.all_up()
        async with connected("127.0.0.1", port) as (first, to_first), connected("127.0.0.1", port) as (_, to_second):
            to_first.write(b"seven..")
            assert await first.readexactly(7) == b"seven.."
            await eventually(lambda: len(it.tunnels.engine.actuator.connections()) == 2)
            newest, oldest = (await detail(it, "server/echo"))["clients"]
            names = [
                f"{host}:{port}" for host, port in (one.get_extra_info("sockname") for one in (to_second, to_first))
            ]
            assert [newest["from"], oldest["from"]] == names
            assert (oldest["bytesSent"], oldest["bytesReceived"], oldest["state"]) == (7, 7, "live")
            assert oldest.keys() == {"from", "since", "bytesSent", "bytesReceived", "state"}
            assert (await detail(it, "server/proxy"))["clients"] == []


async def test_a_lost_connection_is_a_loss_a_failure_and_a_reconnect(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    async with whole(tmp_path, file(sshd, local("echo", port, echo.port))) as it:
        await it.tunnels.all_up()
        await sshd.stop()
        await it.tunnels.until("server/echo", Phase.DOWN)
        await sshd.start()
        await it.tunnels.until("server/echo", Phase.UP)
        assert await exchange("127.0.0.1", port) == b"ping"
        found = await detail(it, "server/echo")
        history = found["history"]
        assert sum(history["losses"]) == 1
        assert sum(history["reconnects"]) == 1
        assert sum(history["up"]) > 0 < sum(history["down"])
        assert {len(history[key]) for key in ("up", "down", "off", "losses", "reconnects")} == {60}
        assert found["failures"][-1]["reason"] in ("closed_by_server", "refused")
        assert ": " in found["failures"][-1]["message"], "what happened: what to do"
        [tunnel] = (await it.http.get("/api/v1/status"))["tunnels"]
        assert tunnel["reconnects"] == 1


async def test_a_removed_tunnel_with_clients_still_has_a_detail(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with whole(
        tmp_path, file(sshd, local("echo", port, echo.port), local("stays", free_port(), echo.port))
    ) as it:
        await it.tunnels.all_up()
        async with connected("127.0.0.1", port) as (reader, writer):
            writer.write(b"x")
            await reader.readexactly(1)
            it.tunnels.edit(file(sshd, local("stays", free_port(), echo.port)))
            await it.control.post("/api/v1/reload")
            await it.control.get("/api/v1/wait")
            found = await detail(it, "server/echo")
            assert (found["file"], found["line"], len(found["clients"])) == (None, None, 1)


async def test_values_of_variables_are_hidden_in_the_detail(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    """The value of HOME is part of the message of the failure, and of the path of the file."""
    text = file(sshd, local("echo", free_port(), echo.port), privateKey="${HOME}/no-key")
    async with whole(tmp_path, text) as it:
        await it.tunnels.until("server/echo", Phase.DOWN)
        found = await detail(it, "server/echo")
        assert found["file"] == f"${{HOME}}/{it.tunnels.file.name}"
        assert "${HOME}/no-key" in found["failures"][0]["message"]
        assert str(tmp_path) not in str(found)
