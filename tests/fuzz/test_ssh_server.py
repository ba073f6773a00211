"""A misbehaving server affects only its own link, and no other tunnel, the memory, the log or later edits.

The program runs as a process with one target on the server of `ssh_server.py` and an unrelated one on a real sshd. The
test measures round trips of the unrelated tunnel, and as a control those of a second process without the misbehaving
target. FUZZ_SECONDS sets the duration, FUZZ_SEED repeats a run, FUZZ_ATTACK selects one attack.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.driver import Fuzz
from support.keys import Keys
from support.metrics import Scraped
from support.processes import tied_to_parent
from support.program import Program, answers, program
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import local, remote, socks, target
from support.wait import eventually, free_port

SECONDS = 8.0  # minimum duration
SEED = int(os.environ.get("FUZZ_SEED", "0") or 0)
ATTACK = os.environ.get("FUZZ_ATTACK", "")
MEMORY_MAX = 100  # MiB of growth
# Seconds that the unrelated tunnel may take longer than the control, except for 5 % of the pings. The limit is
# generous, for a machine that runs other processes too.
EXCESS_MAX = 0.5
# Milliseconds of CPU time of one iteration of the program's event loop, usually 20 to 50. Without the program's limits,
# floods take 600 to 1000, and a packet that expands takes 600.
TURN_MAX = 250


@dataclass
class Misbehaving:
    """The process of the misbehaving server and its output."""

    host: str
    port: int
    user: str
    client_key: Path
    known_hosts: Path
    log: Path

    def attacks(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@contextlib.asynccontextmanager
async def misbehaving(directory: Path, keys: Keys) -> AsyncIterator[Misbehaving]:
    client, host = keys.make("client"), keys.make("host")
    server = Misbehaving("127.0.0.1", free_port(), "tester", client.private, directory / "known", directory / "attacks")
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {' '.join(host.public_line.split()[:2])}\n")
    public = directory / "client.pub"
    public.write_text(client.public_line)
    script = str(Path(__file__).with_name("ssh_server.py"))
    command = [
        sys.executable,
        "-W",
        "ignore",
        script,
        str(server.port),
        str(SEED),
        str(host.private),
        str(public),
        ATTACK,
    ]
    with server.log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*tied_to_parent(command), stdout=out)
    try:
        yield server
    finally:
        process.kill()
        await process.wait()


@dataclass
class Pings:
    """Simultaneous round trips of the unrelated tunnel and the control, in seconds."""

    pairs: list[tuple[float, float]] = field(default_factory=list)

    def excess(self, share: float) -> float:
        """Return how much longer the unrelated tunnel took, ignoring this share of the pings."""
        ordered = sorted(ours - control for ours, control in self.pairs)
        return ordered[int(len(ordered) * (1 - share)) - 1]

    async def measure(self, ours: int, control: int) -> None:
        tunnels = [await asyncio.open_connection("127.0.0.1", port) for port in (ours, control)]
        try:
            while True:
                one, other = await asyncio.gather(*(_ping(*tunnel) for tunnel in tunnels))
                self.pairs.append((one, other))
                await asyncio.sleep(0.005)
        finally:
            for _, writer in tunnels:
                writer.close()


async def _ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
    began = time.perf_counter()
    writer.write(b"ping")
    await reader.readexactly(4)
    return time.perf_counter() - began


async def _be_a_client(port: int) -> None:
    """Connect repeatedly, send data, and read the answer if there is one."""
    while True:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(0.5):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(bytes(random.randrange(1, 200_000)))
                    await reader.read(1 << 20)
                finally:
                    writer.transport.abort()
        await asyncio.sleep(0.02)


async def test_a_misbehaving_server_affects_only_its_own_link(
    sshd: Sshd, tmp_path: Path, keys: Keys, fuzz: Fuzz
) -> None:
    seconds = max(SECONDS, fuzz.seconds)
    well, beside, later, page, *attacked = (free_port() for _ in range(7))
    async with misbehaving(tmp_path, keys) as server, EchoServer() as echo:
        unrelated = target(sshd, "well") + local("echo", well, echo.port)
        patience = {"reconnect": "{initial: 50ms, max: 60ms}", "connectTimeout": "5s", "knownHosts": server.known_hosts}
        fuzzed = ""
        for number, port in enumerate(attacked):
            fuzzed += target(server, f"fuzz{number}", compress="true" if number else "false", **patience)
            fuzzed += local("a", port, 7, health="{type: tcp, interval: 100ms}")
            fuzzed += remote("r", free_port(), echo.port) + remote("c", 0, echo.port) + socks("s", free_port())
        # As a jump host, it disturbs the carrier of another connection.
        jump = f"{{host: 127.0.0.1, port: {server.port}, user: tester, privateKey: {server.client_key}, "
        jump += f"knownHosts: {server.known_hosts}}}"
        fuzzed += target(sshd, "behind", jumpHost=jump, reconnect="{initial: 50ms, max: 60ms}", connectTimeout="5s")
        fuzzed += local("b", free_port(), echo.port)
        file, control = tmp_path / "tunnels.yaml", tmp_path / "control.yaml"
        control.write_text("targets:\n" + target(sshd, "well") + local("echo", beside, echo.port))
        file.write_text("targets:\n" + unrelated)
        turns = tmp_path / "turns"
        timed = [sys.executable, str(Path(__file__).with_name("turn_times.py")), str(turns)]
        async with program(file, "--listen", f"127.0.0.1:{page}", through=timed) as running, program(control):
            await asyncio.gather(answers(well), answers(beside))
            memory = running.rss()
            pings = Pings()
            async with asyncio.TaskGroup() as tasks:
                measuring = tasks.create_task(pings.measure(well, beside))
                await eventually(lambda: len(pings.pairs) > 20)
                file.write_text("targets:\n" + unrelated + fuzzed)
                clients = [tasks.create_task(_be_a_client(port)) for port in attacked for _ in range(2)]
                most = await _watch(running, seconds)
                for task in (measuring, *clients):
                    task.cancel()
            file.write_text("targets:\n" + unrelated + local("later", later, echo.port) + fuzzed)
            await answers(later)
            metrics = Scraped(await _page(page))
        attacks = server.attacks()
        text = running.log_text()
    usual, worst = pings.excess(0.05), pings.excess(0)
    grown = (most - memory) >> 20
    longest = max(turns.read_text().splitlines(), key=lambda line: int(line.split()[0]), default="0")
    fuzz.figures.append(
        f"{len(attacks)} attacks in {seconds:.0f} s; an echo beside them took at most {worst * 1000:.0f} ms longer "
        f"(95 %: {usual * 1000:.0f} ms) than in a process without them; it grew by {grown} MiB; longest turn: {longest}"
    )
    assert len(attacks) > seconds
    assert "Traceback" not in text
    assert not {"\x1b", "\u202e"} & set(text)  # texts of a server are escaped
    assert "internal" not in text
    sentences = re.findall(r" is down \(\w+\)(.*)", text)
    assert sentences
    assert all(re.fullmatch(r": .+: .+", sentence) for sentence in sentences), sentences
    for kind in ("target", "tunnel"):
        assert not any(metrics.values(f"ssh_{kind}_failures_total", reason="internal"))
    assert grown < MEMORY_MAX
    if fuzz.seconds:  # no timed assertions in the suite
        assert int(longest.split()[0]) < TURN_MAX, longest
        assert usual < EXCESS_MAX


async def _watch(running: Program, seconds: float) -> int:
    """Return the peak memory within this many seconds."""
    end, most = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        most = max(most, running.rss())
        await asyncio.sleep(0.05)
    return most


async def _page(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    assert " 200 " in head.split("\r\n")[0]
    return body
