"""The programs that are compared, as processes: this one, plain asyncssh, ssh and autossh."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from support.processes import kill_trees, tied_to_parent, with_descendants
from support.sshd import Sshd
from support.tunnels import local, remote, socks, target
from support.wait import eventually

MB = 1e6
AES128_GCM = "aes128-gcm@openssh.com"
ASYNCSSH = Path(__file__).with_name("workload") / "asyncssh_forwarder.py"


class Kind(StrEnum):
    """A kind of forward."""

    LOCAL = "local"
    REMOTE = "remote"
    SOCKS = "socks"


@dataclass(frozen=True, slots=True)
class Forward:
    """A forward: the port it listens on, and the port it leads to."""

    kind: Kind
    port: int
    to: int

    @property
    def socks_to(self) -> int:
        """The port to ask a SOCKS server for."""
        return self.to if self.kind is Kind.SOCKS else 0


@dataclass(frozen=True, slots=True)
class Login:
    """An SSH server, the cipher to use ("" is the default), and the address to dial if it is not the server's own."""

    sshd: Sshd
    cipher: str = ""
    via: int = 0  # a port of 127.0.0.1 that leads to the server

    @property
    def host(self) -> str:
        return "127.0.0.1" if self.via else self.sshd.host

    @property
    def port(self) -> int:
        return self.via or self.sshd.port


@dataclass(frozen=True, slots=True)
class Memory:
    """MB. PSS counts pages that processes share once."""

    rss: float
    pss: float


@dataclass(frozen=True, slots=True)
class Running:
    """A forwarder that runs: its processes and its forwards."""

    program: str
    roots: tuple[int, ...]
    forwards: tuple[Forward, ...] = ()

    def cpu_seconds(self) -> float:
        """Return the CPU time that its processes have used so far."""
        ticks = 0
        for pid in with_descendants(self.roots):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory(self) -> Memory:
        rss = pss = 0
        for pid in with_descendants(self.roots):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                rss += int(value.split()[0]) if name == "Rss" else 0
                pss += int(value.split()[0]) if name == "Pss" else 0
        return Memory(rss * 1024 / MB, pss * 1024 / MB)


# Each makes the commands for a list of targets: one process for all of them, or one for each.
Targets = Sequence[Sequence[Forward]]


def _tunnels(login: Login, targets: Targets, directory: Path) -> list[list[str]]:
    file = directory / "tunnels.yaml"
    file.write_text(config(login, targets))
    return [[sys.executable, "-m", "reconciler", "run", str(file), "--listen", "none", "--control", "none"]]


def config(login: Login, targets: Targets) -> str:
    """Return the file of this program."""
    fields: dict[str, object] = {
        "port": login.port,
        "knownHosts": None,
        "hostKeys": f'["{login.sshd.host_public_key}"]',
    }
    if login.cipher:
        fields["algorithms"] = f"{{cipher: [{login.cipher}]}}"
    text = "targets:\n"
    for number, forwards in enumerate(targets):
        text += target(login.sshd, f"t{number}", host=login.host, **fields)
        for one in forwards:
            match one.kind:
                case Kind.LOCAL:
                    text += local(f"n{one.port}", one.port, one.to, maxConnections=0)
                case Kind.REMOTE:
                    text += remote(f"n{one.port}", one.port, one.to, maxConnections=0)
                case Kind.SOCKS:
                    text += socks(f"n{one.port}", one.port, maxConnections=0)
    return text


def _asyncssh(login: Login, targets: Targets, directory: Path) -> list[list[str]]:
    known = _known_hosts(login, directory)
    each = {"host": login.host, "port": login.port, "user": login.sshd.user, "key": str(login.sshd.client_key)}
    each |= {"known_hosts": str(known), "cipher": login.cipher}
    made = [{**each, "forwards": [[str(one.kind), one.port, one.to] for one in forwards]} for forwards in targets]
    return [[sys.executable, str(ASYNCSSH), json.dumps(made)]]


def _ssh(login: Login, targets: Targets, directory: Path) -> list[list[str]]:
    options = ["-N", "-F", "none", "-o", f"UserKnownHostsFile={_known_hosts(login, directory)}"]
    options += ["-o", "ExitOnForwardFailure=yes", "-i", str(login.sshd.client_key), "-p", str(login.port)]
    if login.cipher:
        options += ["-c", login.cipher]
    return [["ssh", *options, *_ssh_forwards(forwards), f"{login.sshd.user}@{login.host}"] for forwards in targets]


def _ssh_forwards(forwards: Sequence[Forward]) -> list[str]:
    words = list[str]()
    for one in forwards:
        match one.kind:
            case Kind.LOCAL:
                words += ["-L", f"127.0.0.1:{one.port}:127.0.0.1:{one.to}"]
            case Kind.REMOTE:
                words += ["-R", f"127.0.0.1:{one.port}:127.0.0.1:{one.to}"]
            case Kind.SOCKS:
                words += ["-D", f"127.0.0.1:{one.port}"]
    return words


def _autossh(login: Login, targets: Targets, directory: Path) -> list[list[str]]:
    """In its usual setup: no monitor port, ssh's own keepalive, no wait before the first start."""
    usual = ["-M", "0", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=2"]
    return [["env", "AUTOSSH_GATETIME=0", "autossh", *usual, *rest] for _, *rest in _ssh(login, targets, directory)]


def _known_hosts(login: Login, directory: Path) -> Path:
    path = directory / "known_hosts"
    path.write_text(f"[{login.host}]:{login.port} {login.sshd.host_public_key}\n")
    return path


PROGRAMS: dict[str, Callable[[Login, Targets, Path], list[list[str]]]] = {
    "tunnels": _tunnels,
    "asyncssh": _asyncssh,
    "ssh": _ssh,
    "autossh": _autossh,
}


def installed(program: str) -> bool:
    return program in ("tunnels", "asyncssh") or shutil.which(program) is not None


@contextlib.asynccontextmanager
async def forwarder(
    program: str, login: Login, targets: Targets, directory: Path, *, within: float = 60
) -> AsyncIterator[Running]:
    """Run one of the programs until all its forwards listen on this machine."""
    place = directory / f"{program}-{targets[0][0].port}"
    place.mkdir(exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        started = [await stack.enter_async_context(process(c)) for c in PROGRAMS[program](login, targets, place)]
        for forwards in targets:
            for one in forwards:
                await until_open(one.port, within=within)
        forwards = tuple(one for group in targets for one in group)
        yield Running(program, tuple(one.pid for one in started), forwards)


@contextlib.asynccontextmanager
async def process(command: Sequence[str], *, quiet: bool = True) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a process, with its errors shown unless `quiet`. Kill it and its descendants at the end of the block."""
    started = await asyncio.create_subprocess_exec(
        *tied_to_parent(list(command)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL if quiet else None,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            await kill_trees([started.pid])
        await started.communicate()


async def until_open(port: int, *, within: float = 60) -> None:
    """Wait until a process listens on the port."""

    async def connects() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            return False
        writer.transport.abort()
        return True

    await eventually(connects, within=within)
