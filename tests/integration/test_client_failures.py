"""The last client failure of each tunnel, as the status shows it."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from support.endpoints import Whole, whole
from support.services import EchoServer, Opening, RefusingPort, by_tcp, by_unix, connected, exchange
from support.socks_client import by_socks
from support.sshd import Sshd
from support.tunnels import file, local, remote, socks, target, tunnel
from support.wait import eventually, free_port


async def test_each_kind_of_client_failure_is_shown(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    ports = {name: free_port() for name in ("dial", "denied", "back", "proxy", "held")}
    path = tmp_path / "unix.sock"
    with RefusingPort() as dead:
        text = (
            file(
                sshd,
                local("dial", ports["dial"], dead.port),
                local("denied", ports["denied"], echo.port, deny="[127.0.0.0/8]"),
                tunnel("unix", "local", localSocket=path, remoteHost="127.0.0.1", remotePort=dead.port),
                remote("back", ports["back"], dead.port),
                socks("proxy", ports["proxy"], denyDestinations="['127.0.0.1:*']"),
            )
            + target(sshd, "away", port=dead.port)
            + local("held", ports["held"], echo.port, holdTimeout="50ms")
        )
        async with whole(tmp_path, text) as it:
            await eventually(lambda: sum(phase == "up" for phase in it.tunnels.phases().values()) == 5)
            assert set((await failures(it)).values()) == {None}
            began = time.time()
            origins = {name: await fails(ports[name]) for name in ("dial", "denied", "back", "held")}
            await fails(ports["proxy"], by_socks(ports["proxy"]))
            await fails(0, by_unix(path))
            await eventually(lambda: all_failed(it), message="a failure of each tunnel")
            found = await failures(it)
            refused = f"127.0.0.1:{dead.port} refuses connections"
            for name, result, message in (
                ("server/dial", "dial_failed", refused),
                ("server/denied", "denied", "its address is not allowed"),
                ("server/unix", "dial_failed", refused),
                ("server/back", "dial_failed", refused),
                ("server/proxy", "denied", "127.0.0.1"),
                ("away/held", "hold_timeout", "no SSH connection within its holdTimeout"),
            ):
                failure = found[name]
                assert failure is not None, name
                assert (failure["result"], message in failure["message"]) == (result, True), (name, failure)
                assert began - 1 <= datetime.fromisoformat(failure["at"]).timestamp() <= time.time() + 1
                if own := origins.get(name.partition("/")[2]):
                    assert failure["from"] == own
            unix = found["server/unix"]
            assert unix is not None
            assert unix["from"] is None


async def test_a_client_that_connects_or_leaves_is_no_failure(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with whole(tmp_path, file(sshd, local("echo", port, echo.port))) as it:
        await it.tunnels.all_up()
        await exchange("127.0.0.1", port)
        async with connected("127.0.0.1", port) as (_, writer):
            writer.transport.abort()
        await it.tunnels.no_client_is_connected()
        assert await failures(it) == {"server/echo": None}


async def failures(it: Whole) -> dict[str, dict[str, Any] | None]:
    status = await it.control.get("/api/v1/status")
    return {one["id"]: one["lastClientFailure"] for one in status["tunnels"]}


async def all_failed(it: Whole) -> bool:
    return all((await failures(it)).values())


async def fails(port: int, opening: Opening = by_tcp) -> str:
    """Connect a client that is refused or gets no connection, and return its address."""
    origin = ""
    with contextlib.suppress(ConnectionError):
        async with connected("127.0.0.1", port, opening) as (reader, writer):
            name = writer.get_extra_info("sockname")
            origin = "{}:{}".format(*name) if name else ""
            assert await reader.read() == b""
    return origin
