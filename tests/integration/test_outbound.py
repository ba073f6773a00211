"""`addressFamily` and `bindAddress`: which addresses are connected to, and from which address of this machine."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from integration.commands import ran
from integration.dialling import access, dialled, failure_of, hop, trust
from reconciler.core.observed import Phase, Reason
from reconciler.core.outbound import AddressFamily, Outbound
from reconciler.core.spec import Endpoint, Hop, TrustMode
from support.endpoints import whole
from support.services import EchoServer, connected
from support.sshd import Sshd
from support.tunnels import file, local, running, target
from support.wait import eventually, free_port

FROM_ANOTHER = Outbound(AddressFamily.ANY, "127.0.0.2")
NOT_OURS = "192.0.2.77"  # RFC 5737: no machine has it


ADDRESSES = {"dual.test": ("::1", "127.0.0.1"), "four.test": ("127.0.0.1",)}


@pytest.fixture
async def dual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sshd]:
    """A server that listens on 127.0.0.1 and on ::1, and the names in `ADDRESSES`."""

    def found(host: str, port: int, family: int, kind: int, *, flags: int) -> list[Any]:
        if flags & socket.AI_NUMERICHOST:
            return getaddrinfo(host, port, family, kind, flags=flags)
        addresses = [one for one in ADDRESSES[host] if family in (socket.AF_UNSPEC, family_of(one))]
        if not addresses:
            raise socket.gaierror(socket.EAI_NODATA, "No address associated with hostname")
        return [info for one in addresses for info in getaddrinfo(one, port, family, kind)]

    getaddrinfo = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", found)
    server = Sshd(tmp_path / "dual")
    server.options["ListenAddress"] = f"127.0.0.1:{server.port}\nListenAddress [::1]:{server.port}"
    async with server:
        yield server


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def named(server: Sshd) -> Hop:
    """The hop that reaches the server by a name with an address of each family."""
    pinned = trust(TrustMode.STRICT, host_keys=(server.host_public_key,))
    return hop(server, hosts=(Endpoint("dual.test", server.port),), trust=pinned)


def sources(server: Sshd) -> list[str]:
    """The addresses from which the server was reached, in order."""
    lines = [line for line in server.log.read_text().splitlines() if line.startswith("Connection from ")]
    return [line.split()[2] for line in lines]


async def test_the_server_sees_the_bind_address(dual: Sshd) -> None:
    async with dialled(access(named(dual), outbound=FROM_ANOTHER)) as result:
        assert result.connection.get_extra_info("sockname")[0] == "127.0.0.2"
    assert sources(dual) == ["127.0.0.2"]


@pytest.mark.parametrize(
    ("outbound", "source"),
    [
        (Outbound(AddressFamily.INET, ""), "127.0.0.1"),
        (Outbound(AddressFamily.INET6, ""), "::1"),
        (Outbound(AddressFamily.INET6, "::1"), "::1"),
        (Outbound(AddressFamily.ANY, "::1"), "::1"),
        (Outbound(AddressFamily.INET, "127.0.0.3"), "127.0.0.3"),
    ],
)
async def test_only_addresses_of_the_family_are_connected_to(dual: Sshd, outbound: Outbound, source: str) -> None:
    async with dialled(access(named(dual), outbound=outbound)):
        assert sources(dual) == [source]


async def test_the_bind_address_is_used_for_the_jump_host_and_not_for_the_target(dual: Sshd, tmp_path: Path) -> None:
    async with Sshd(tmp_path / "behind", client=dual.client) as behind:
        async with dialled(access(hop(behind), named(dual), outbound=FROM_ANOTHER)):
            assert (sources(dual), sources(behind)) == (["127.0.0.2"], ["127.0.0.1"])


@pytest.mark.parametrize("address", [NOT_OURS, "2001:db8::77", "fe80::1%nowhere0"])
async def test_an_address_that_this_machine_does_not_have_is_named(dual: Sshd, address: str) -> None:
    failure = await failure_of(access(named(dual), outbound=Outbound(AddressFamily.ANY, address)))
    assert failure.reason is Reason.UNREACHABLE
    assert failure.what == f"cannot connect to dual.test:{dual.port} from {address} (this machine has no such address)"
    assert failure.advice == "correct `bindAddress`, or bring up the interface that has the address"


@pytest.mark.parametrize(
    ("outbound", "field"),
    [
        (Outbound(AddressFamily.INET6, ""), "`addressFamily: inet6`"),
        (Outbound(AddressFamily.ANY, "::1"), "`bindAddress: ::1`"),
    ],
)
async def test_a_name_without_an_address_of_the_family_names_the_field(
    dual: Sshd, outbound: Outbound, field: str
) -> None:
    hosts = (Endpoint("four.test", dual.port),)
    failure = await failure_of(access(replace(named(dual), hosts=hosts), outbound=outbound))
    assert failure.reason is Reason.DNS
    assert f"cannot resolve the name of four.test:{dual.port} to an IPv6 address" in failure.what
    assert failure.advice == f"check the name and the resolver, or change {field}"


async def test_an_edit_of_the_bind_address_makes_a_new_link_before_the_old_one_ends(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    tunnel = local("echo", port, echo.port)
    async with running(tmp_path, file(sshd, tunnel)) as tunnels:
        await tunnels.all_up()
        async with connected("127.0.0.1", port) as (reader, writer):
            old = tunnels.links
            tunnels.edit(file(sshd, tunnel, bindAddress="127.0.0.2"))
            await eventually(lambda: len(tunnels.links) == 2, message="the new link beside the old one")
            writer.write(b"still here\n")
            assert await reader.readline() == b"still here\n"
        await tunnels.replaced(old)
        assert sources(sshd) == ["127.0.0.1", "127.0.0.2"]
        tunnels.edit(file(sshd, tunnel, bindAddress=NOT_OURS))
        reason = f"cannot connect to 127.0.0.1:{sshd.port} from {NOT_OURS}"

        def is_told() -> bool:
            status = tunnels.engine.status
            return status is not None and reason in status.targets[0].verdict.message

        await eventually(is_told, message="the failure is shown while the old link stays in service")
        assert tunnels.phases() == {"server/echo": Phase.UP}


async def test_diagnose_shows_the_bind_address(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    text = (
        file(sshd, local("echo", free_port(), echo.port), bindAddress="127.0.0.2")
        + target(sshd, "lost", bindAddress=NOT_OURS)
        + local("echo", free_port(), echo.port)
    )
    async with whole(tmp_path, text) as it:
        await it.tunnels.until("server/echo", Phase.UP)
        await it.tunnels.until("lost/echo", Phase.DOWN)
        steps = (await it.control.get("/api/v1/diagnose", id="server/echo"))["steps"]
        assert [step["detail"] for step in steps if step["step"] == "server: connect"] == [
            f"127.0.0.1:{sshd.port} answers, from 127.0.0.2"
        ]
        failed = (await it.control.get("/api/v1/diagnose", id="lost/echo"))["steps"][-1]
        assert failed["step"] == "server: connect"
        assert f"from {NOT_OURS} (this machine has no such address)" in failed["detail"]
        assert "`bindAddress`" in failed["fix"]


async def test_trust_fetches_the_key_from_the_bind_address(sshd: Sshd, tmp_path: Path) -> None:
    config = tmp_path / "tunnels.yaml"
    config.write_text(file(sshd, local("echo", free_port(), 1), bindAddress="127.0.0.2"))
    fetched = await ran("trust", config, env={"HOME": str(tmp_path)})
    assert fetched.code == 0, fetched.err
    assert sources(sshd) == ["127.0.0.2"]
