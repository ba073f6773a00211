"""Few file descriptors: listeners, connections and clients each get a share, and commands still work."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohappyeyeballs import AddrInfoType

from reconciler.config.problem import ErrorCode, Location, Problem
from reconciler.config.syntax.config_files import Found, find
from reconciler.core.spec import Endpoint
from reconciler.system import tcp
from support.endpoints import client_of
from support.metrics import Scraped, scrape
from support.program import Program, answers, limited, limits, program
from support.services import EchoServer, SilentService, connected, exchange
from support.socks_client import by_socks
from support.sshd import Sshd
from support.tunnels import file, local, remote, running, socks, target, tunnel
from support.wait import WITHIN, eventually, fd_count, free_port, has_listener

HARD = 512
NONE_LEFT = "no descriptor left for another"


@dataclass(frozen=True, slots=True)
class Starved:
    """The program with few descriptors, its file and its endpoints."""

    program: Program
    file: Path
    address: str
    control: str

    def edit(self, text: str) -> None:
        beside = self.file.with_name(".edited")
        beside.write_text(text)
        beside.replace(self.file)

    async def status(self) -> Any:
        async with client_of(path=self.control) as client:
            return await asyncio.wait_for(client.get("/api/v1/status"), WITHIN)

    async def tunnels(self) -> dict[str, Any]:
        return {one["id"]: one for one in (await self.status())["tunnels"]}

    async def metrics(self) -> Scraped:
        async with client_of(address=self.address) as client:
            return await asyncio.wait_for(scrape(client), WITHIN)

    async def until_up(self, *ids: str) -> None:
        """Wait until exactly these tunnels exist and are up."""

        async def are_up() -> bool:
            tunnels = await self.tunnels()
            return tunnels.keys() == set(ids) and all(one["up"] for one in tunnels.values())

        await eventually(are_up, message=lambda: f"{ids} are up\n{self.program.log_text()[-2000:]}", every=0.1)


@contextlib.asynccontextmanager
async def starved(directory: Path, text: str, *, soft: int = HARD, hard: int = HARD) -> AsyncIterator[Starved]:
    path, port, control = directory / "tunnels.yaml", free_port(), str(directory / "c.sock")
    path.write_text(text)
    endpoints = ("--listen", f"127.0.0.1:{port}", "--control", control)
    async with program(path, *endpoints, through=limited(soft, hard)) as process:
        await eventually(lambda: has_listener(Path(control)), message=process.log_text)
        yield Starved(process, path, f"127.0.0.1:{port}", control)
        assert "Traceback" not in process.log_text()


@contextlib.contextmanager
def connect_many(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Connect this many clients to a port. They send nothing."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(count)]
        for client in clients:
            client.setblocking(False)
        yield clients


def refused(clients: list[socket.socket]) -> int:
    """Return how many of the clients were reset."""
    count = 0
    for client in clients:
        try:
            client.recv(1)
        except BlockingIOError:
            continue
        except ConnectionResetError:
            pass
        count += 1  # reset now, or before
    return count


def dead_and_live_tunnels(sshd: Sshd, dead: int, well: int, to: int) -> str:
    """A tunnel to a dead server, with held clients, and a tunnel that works."""
    away = target(sshd, "dead", port=free_port()) + local("held", dead, to, holdTimeout="5m")
    return "targets:\n" + away + target(sshd, "well") + local("echo", well, to)


# --- clients ----------------------------------------------------------------------------------------------------


async def test_held_clients_of_a_dead_tunnel_leave_descriptors_for_another(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    dead, well = free_port(), free_port()
    async with starved(tmp_path, dead_and_live_tunnels(sshd, dead, well, echo.port)) as it:
        await answers(well)
        with connect_many(dead, 2 * HARD) as clients:
            await eventually(lambda: refused(clients) > HARD, message="what is too much is refused")
            results = await asyncio.gather(*(exchange("127.0.0.1", well) for _ in range(20)))
            assert results == [b"ping"] * 20
            metrics = await it.metrics()
            tunnel = {"target": "dead", "tunnel": "held"}
            assert metrics.value("ssh_tunnel_connections_total", result="limit", **tunnel) > HARD
            assert metrics.value("ssh_tunnel_failures_total", reason="resources", **tunnel) > HARD
            held = metrics.value("ssh_tunnel_held_connections", **tunnel)
            assert HARD // 4 < held < HARD
            said = it.program.log_text()
            assert f"{NONE_LEFT} client ({held:g} of {HARD} descriptors are in use by clients of dead/held): " in said
            assert "(ulimit -n, LimitNOFILE=) or set `maxConnections`" in said
            assert said.count(NONE_LEFT) < 10, "the log is told once in a while"
        await answers(well)


async def test_held_clients_of_many_dead_targets_leave_descriptors_for_another(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    well, dead = free_port(), [free_port() for _ in range(30)]
    text = "targets:\n" + target(sshd, "well") + local("echo", well, echo.port)
    for number, port in enumerate(dead):
        text += target(sshd, f"dead{number}", port=free_port()) + local("held", port, 1, holdTimeout="5m")
    async with starved(tmp_path, text) as it:
        await answers(well)
        with contextlib.ExitStack() as stack:
            clients = [
                client for port in dead for client in stack.enter_context(connect_many(port, 2 * HARD // len(dead)))
            ]
            await eventually(lambda: refused(clients) > HARD, message="what is too much is refused")
            results = await asyncio.gather(*(exchange("127.0.0.1", well) for _ in range(20)))
            assert results == [b"ping"] * 20
            assert "in use by clients of targets that are not connected): " in it.program.log_text()


async def test_clients_of_a_remote_tunnel_are_limited_too(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    many, back, well = free_port(), free_port(), free_port()
    async with SilentService() as silent:
        tunnels = (remote("many", many, silent.port), remote("back", back, echo.port), local("well", well, echo.port))
        async with starved(tmp_path, file(sshd, *tunnels)) as it:
            await it.until_up("server/many", "server/back", "server/well")
            with connect_many(many, HARD):

                async def some_are_refused() -> bool:
                    metrics = await it.metrics()
                    counted = [
                        metrics.value("ssh_tunnel_connections_total", target="server", tunnel="many", result=result)
                        for result in ("ok", "limit")
                    ]
                    return counted[1] > 0 and sum(counted) == HARD

                await eventually(some_are_refused, message=it.program.log_text, every=0.1)
                assert fd_count(it.program.pid) < HARD
                for port in (back, well):
                    assert await exchange("127.0.0.1", port) == b"ping"
                assert "in use by clients of server/many" in it.program.log_text()
            await answers(back)


# --- listeners and connections ----------------------------------------------------------------------------------


async def test_too_many_listeners_open_after_an_edit_makes_room(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    ports = [free_port() for _ in range(HARD + 100)]
    text = file(sshd, *(local(f"t{n}", port, echo.port) for n, port in enumerate(ports)))
    async with starved(tmp_path, text) as it:

        async def are_decided() -> bool:
            tunnels = await it.tunnels()
            return len(tunnels) == len(ports) and all(one["up"] or one["reason"] for one in tunnels.values())

        await eventually(are_decided, message=it.program.log_text, every=0.2)
        tunnels = await it.tunnels()
        up = [one for one in tunnels.values() if one["up"]]
        down = [one for one in tunnels.values() if not one["up"]]
        assert HARD // 4 < len(up) < HARD
        assert {(one["phase"], one["reason"]) for one in down} == {("down", "resources")}
        why = f"{NONE_LEFT} listener (listeners may use {len(up)} of {HARD} descriptors):"
        assert {one["message"] for one in down} == {f"{why} raise the limit of open files (ulimit -n, LimitNOFILE=)"}
        assert await exchange("127.0.0.1", int(up[0]["listen"].rpartition(":")[2])) == b"ping"
        assert (await it.metrics()).value("tunnels_configured") == len(ports)
        kept = [up[0]["id"], *(one["id"] for one in down[:40])]
        it.edit(file(sshd, *(local(f"t{n}", p, echo.port) for n, p in enumerate(ports) if f"server/t{n}" in kept)))
        await it.until_up(*kept)


async def test_too_many_connections_open_after_an_edit_makes_room(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    """Each target has its own address, which never answers."""
    well, more = free_port(), free_port()
    working = target(sshd, "well") + local("echo", well, echo.port)
    async with SilentService(host="0.0.0.0") as silent:
        dead = [
            target(sshd, f"d{n}", host=f"127.0.{n // 200}.{n % 200 + 1}", port=silent.port, connectTimeout="5m")
            + local("t", free_port(), 1)
            for n in range(HARD)
        ]
        async with starved(tmp_path, "targets:\n" + working) as it:
            await answers(well)
            it.edit("targets:\n" + working + "".join(dead))
            await eventually(
                lambda: f"{NONE_LEFT} SSH connection" in it.program.log_text(), message=it.program.log_text
            )
            assert await exchange("127.0.0.1", well) == b"ping"
            assert (await it.tunnels())["well/echo"]["up"]
            it.edit("targets:\n" + working + local("more", more, echo.port))
            await it.until_up("well/echo", "well/more")


# --- endpoints --------------------------------------------------------------------------------------------------


async def test_clients_of_the_endpoints_leave_descriptors_for_tunnels(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    port = free_port()
    async with starved(tmp_path, file(sshd, local("echo", port, echo.port))) as it:
        await answers(port)
        metrics_port = int(it.address.rpartition(":")[2])
        with contextlib.ExitStack() as stack:
            for client in stack.enter_context(connect_many(metrics_port, HARD)):
                with contextlib.suppress(OSError):  # it has ended already
                    client.send(b"GET /metrics HTTP/1.1\r\nHost:")
            for _ in range(HARD):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.connect(it.control)
                with contextlib.suppress(OSError):
                    client.send(b"POST /api/v1/plan HTTP/1.1\r\nContent-Length: 1000\r\nHost: x\r\n\r\n{")
            assert await exchange("127.0.0.1", port) == b"ping"
            assert (await it.metrics()).value("ssh_tunnel_up") == 1
            assert (await it.tunnels())["server/echo"]["up"]
            assert fd_count(it.program.pid) < HARD // 2


# --- reading the file -------------------------------------------------------------------------------------------


async def test_a_file_unreadable_for_lack_of_descriptors_is_read_later(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    one, two = free_port(), free_port()
    async with starved(tmp_path, file(sshd, local("one", one, echo.port))) as it:
        await answers(one)
        soft, hard = limits(it.program.pid)
        resource.prlimit(it.program.pid, resource.RLIMIT_NOFILE, (3, hard))
        it.edit(file(sshd, local("one", one, echo.port), local("two", two, echo.port)))
        it.program.send(signal.SIGHUP)
        await eventually(lambda: "cannot be read: too many open files" in it.program.log_text())
        with connect_many(int(it.address.rpartition(":")[2]), 5):  # the endpoint cannot accept them now
            await asyncio.sleep(0.5)
            resource.prlimit(it.program.pid, resource.RLIMIT_NOFILE, (soft, hard))
            await answers(two)
            assert (await it.metrics()).value("tunnels_config_last_reload_successful") == 1


async def test_a_file_that_only_the_watcher_could_read_is_read_again(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = free_port(), free_port()
    async with running(tmp_path, file(sshd, local("one", one, echo.port))) as tunnels:
        await tunnels.all_up("server/one")
        failed: list[str] = []
        original = find

        def fails_once(name: str) -> Found:
            if failed:
                return original(name)
            failed.append(name)
            why = os.strerror(errno.EMFILE).lower()
            return Found(name, str(tmp_path), b"", Problem.at(Location(name), why, ErrorCode.UNREADABLE))

        monkeypatch.setattr("reconciler.config.syntax.config_files.find", fails_once)
        tunnels.edit(file(sshd, local("one", one, echo.port), local("two", two, echo.port)))
        await tunnels.all_up("server/one", "server/two")
        assert failed


# --- reserved descriptors are released --------------------------------------------------------------------------------


def has_ipv6_loopback() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


async def test_each_reserved_descriptor_is_released(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, proxy, back, closed, denied = (free_port() for _ in range(5))
    tunnels = (
        local("echo", port, echo.port),
        socks("proxy", proxy),
        remote("back", back, echo.port),
        remote("closed", closed, free_port()),
        local("denied", denied, echo.port, deny="[127.0.0.0/8]"),
        local("name", free_port(), echo.port, localHost="localhost"),
        tunnel("unix", "local", localSocket=tmp_path / "s", remoteHost="127.0.0.1", remotePort=echo.port),
    )
    async with running(tmp_path, file(sshd, *tunnels)) as run:
        await run.all_up()
        budget = run.app.budget
        localhost = 1 + has_ipv6_loopback()
        assert (budget.listeners, budget.links, budget.clients) == (3 + localhost + 2, 1, 0)  # a unix socket has a lock
        for _ in range(3):
            async with connected("127.0.0.1", port), connected("127.0.0.1", back):
                await eventually(lambda: budget.clients == 2)
                await sshd.kill_sessions()
            with socket.create_connection(("127.0.0.1", denied)), socket.create_connection(("127.0.0.1", proxy)):
                await run.all_up()
            assert await exchange("127.0.0.1", echo.port, opening=by_socks(proxy)) == b"ping"
            with socket.create_connection(("127.0.0.1", closed)):
                pass
            await eventually(lambda: budget.clients == 0, message="no client has a place")
        links = run.links
        run.restart("server")
        await run.replaced(links)
        await eventually(lambda: budget.links == 1, message="the replaced connection has no place")
        run.edit(file(sshd, local("other", free_port(), echo.port)))
        await run.all_up("server/other")
        await eventually(lambda: (budget.listeners, budget.links, budget.clients) == (1, 1, 0))
        run.edit("targets: {}\n")
        await eventually(lambda: (budget.listeners, budget.links, budget.clients) == (0, 0, 0))


async def test_a_dial_counts_its_connection_to_an_agent(sshd: Sshd, tmp_path: Path) -> None:
    async with SilentService(path=tmp_path / "agent") as agent:
        text = file(sshd, local("t", free_port(), 1), privateKey=None, agent=agent.path, connectTimeout="5m")
        async with running(tmp_path, text) as run:
            await eventually(lambda: agent.connections == 1)
            assert run.app.budget.links == 2
            run.edit("targets: {}\n")
            await eventually(lambda: run.app.budget.links == 0)


def connecting(port: int) -> int:
    """Return how many sockets of this machine wait for an answer from that port."""
    syn_sent, wanted = "02", f"{port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    return sum(row[3] == syn_sent and row[2].endswith(f":{wanted}") for row in rows)


async def test_addresses_that_do_not_answer_keep_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (f"127.0.0.{n}", 0)) for n in range(1, 41)]
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("0.0.0.0", 0), backlog=0))
        port = full.getsockname()[1]
        for _ in range(2):  # its queue is full, so it does not answer
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))

        async def many(_endpoint: Endpoint, _outbound: object) -> list[AddrInfoType]:
            return [(*info[:4], (info[4][0], port)) for info in addresses]

        monkeypatch.setattr(tcp, "addresses", many)
        monkeypatch.setattr(tcp, "RACERS_MAX", 4)
        monkeypatch.setattr(tcp, "_NEXT_ADDRESS_AFTER", 0.01)
        before = connecting(port)
        tasks = [asyncio.create_task(tcp.connect(Endpoint("name", port))) for _ in range(3)]
        await eventually(lambda: connecting(port) == before + 3 + 4)
        await asyncio.sleep(0.5)  # 40 addresses, 10 ms apart
        assert connecting(port) == before + 3 + 4
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert connecting(port) == before
        assert not tcp._racers
