"""Each fault gives its phase and reason, affects one target only, and heals by itself where it can."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reconciler.core.observed import NEEDS_ACTION, Phase, Reason
from support.asyncssh_server import AsyncsshServer
from support.clients import moving
from support.faults import SilentListener, SlowBanner
from support.keys import Keys
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import Running, local, remote, running, target
from support.wait import eventually, free_port

SICK = "sick/echo"


@dataclass
class Trouble:
    """A fault of the target "sick" with one tunnel "echo".

    text      the target in the file
    begin     causes the fault once the tunnel is up; None: it never comes up
    end       ends the fault without notice to the program; None: it does not end
    says      a part of the expected message
    clients   client attempts that the fault needs to be noticed; None: none
    """

    text: str
    begin: Callable[[], Awaitable[None]] | None = None
    end: Callable[[], Awaitable[None]] | None = None
    says: str = ""
    clients: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True)
class Scene:
    """The parts of a fault: its own server, a destination, and the port of the tunnel."""

    sshd: Sshd
    echo: EchoServer
    path: Path
    monkeypatch: pytest.MonkeyPatch
    names: dict[str, str] = field(default_factory=dict)  # the names that the resolver knows
    port: int = field(default_factory=free_port)

    @property
    def line(self) -> str:
        return local("echo", self.port, self.echo.port, holdTimeout="5s")

    def target(self, **fields: object) -> str:
        return target(self.sshd, "sick", **{"reconnect": "{max: 500ms}", **fields})

    def resolve_by_names(self) -> None:
        asked = socket.getaddrinfo

        def getaddrinfo(host: str | None, *rest: object, **more: object) -> object:
            if host is not None and host.endswith(".test"):
                if host not in self.names:
                    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
                host = self.names[host]
            return asked(host, *rest, **more)  # type: ignore[arg-type]  # passed on unchanged

        self.monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


Fault = Callable[[Scene], contextlib.AbstractAsyncContextManager[Trouble]]


@contextlib.asynccontextmanager
async def silent_listener(scene: Scene) -> AsyncIterator[Trouble]:
    async with SilentListener(port=free_port()) as there:

        async def replaced() -> None:
            await there.stop()
            scene.sshd.port = there.port
            await scene.sshd.restart()

        known = f'["{scene.sshd.host_public_key}"]'
        text = scene.target(port=there.port, knownHosts=None, hostKeys=known, connectTimeout="2s")
        yield Trouble(text + scene.line, end=replaced, says="sent nothing")


@contextlib.asynccontextmanager
async def one_byte_a_second(scene: Scene) -> AsyncIterator[Trouble]:
    async with SlowBanner(interval=1.0) as there:
        yield Trouble(scene.target(port=there.port, connectTimeout="1500ms") + scene.line, says="1.5 s")


@contextlib.asynccontextmanager
async def channel_never_answered(scene: Scene) -> AsyncIterator[Trouble]:
    async with AsyncsshServer(scene.path / "never") as there:
        there.never_answer_channel(f"127.0.0.1:{scene.echo.port}")

        async def try_it() -> None:
            for _ in range(3):
                with contextlib.suppress(ConnectionError):
                    await exchange("127.0.0.1", scene.port)

        async def is_answered() -> bool:
            try:
                return await exchange("127.0.0.1", scene.port) == b"ping"
            except ConnectionError:
                return False  # the machine may be slower than the timeout

        async def answers() -> None:
            there.answer_normally()
            await eventually(is_answered)

        text = target(there, "sick", dialTimeout="500ms") + scene.line
        yield Trouble(text, clients=try_it, end=answers, says="did not answer in time")


@contextlib.asynccontextmanager
async def name_unknown(scene: Scene) -> AsyncIterator[Trouble]:
    scene.resolve_by_names()

    async def known() -> None:
        scene.names["sick.test"] = "127.0.0.1"

    text = scene.target(host="sick.test", knownHosts=None, hostKeys=f'["{scene.sshd.host_public_key}"]')
    yield Trouble(text + scene.line, end=known, says="cannot resolve")


@contextlib.asynccontextmanager
async def name_moved(scene: Scene) -> AsyncIterator[Trouble]:
    """The server moves to another address, as after a failover. The old one refuses until the name changes."""
    scene.resolve_by_names()
    scene.names["sick.test"] = "127.0.0.1"

    async def moves() -> None:
        await scene.sshd.stop()
        scene.sshd.host = "127.0.0.2"
        await scene.sshd.start()

    async def name_follows() -> None:
        scene.names["sick.test"] = "127.0.0.2"

    text = scene.target(host="sick.test", knownHosts=None, hostKeys=f'["{scene.sshd.host_public_key}"]')
    yield Trouble(text + scene.line, begin=moves, end=name_follows, says="sick.test")


@contextlib.asynccontextmanager
async def host_key_changed(scene: Scene) -> AsyncIterator[Trouble]:
    async def reinstalled() -> None:
        scene.sshd.change_host_key()
        await scene.sshd.restart()

    async def key_taken_up() -> None:
        line = f"[{scene.sshd.host}]:{scene.sshd.port} {scene.sshd.host_public_key}\n"
        scene.sshd.known_hosts.write_text(line)

    yield Trouble(scene.target() + scene.line, begin=reinstalled, end=key_taken_up, says="has changed")


@contextlib.asynccontextmanager
async def wrong_password(scene: Scene) -> AsyncIterator[Trouble]:
    file = scene.path / "password"
    file.write_text("wrong")
    file.chmod(0o600)
    async with AsyncsshServer(scene.path / "password-server", password="right") as there:

        async def corrected() -> None:
            file.write_text("right")

        text = target(there, "sick", privateKey=None, password=f"{{file: {file}}}") + scene.line
        yield Trouble(text, end=corrected, says="refused the login")


@contextlib.asynccontextmanager
async def locked_key(scene: Scene) -> AsyncIterator[Trouble]:
    locked = Keys(scene.path / "locked").make(passphrase="secret")

    async def unlocked() -> None:
        locked.private.write_bytes(scene.sshd.client_key.read_bytes())

    yield Trouble(scene.target(privateKey=locked.private) + scene.line, end=unlocked, says="is encrypted")


@contextlib.asynccontextmanager
async def local_port_taken(scene: Scene) -> AsyncIterator[Trouble]:
    listen = f"import socket; s = socket.create_server(('127.0.0.1', {scene.port})); print(1, flush=True); s.accept()"
    squatter = await asyncio.create_subprocess_exec(sys.executable, "-c", listen, stdout=subprocess.PIPE)
    assert squatter.stdout is not None
    await squatter.stdout.readline()

    async def goes() -> None:
        squatter.kill()
        await squatter.communicate()

    try:
        yield Trouble(scene.target() + scene.line, end=goes, says=str(squatter.pid))
    finally:
        if squatter.returncode is None:
            await goes()


@contextlib.asynccontextmanager
async def remote_port_taken(scene: Scene) -> AsyncIterator[Trouble]:
    squatter = socket.create_server(("127.0.0.1", scene.port))

    async def goes() -> None:
        squatter.close()

    with squatter:
        text = scene.target() + remote("echo", scene.port, scene.echo.port)
        yield Trouble(text, end=goes, says="in use there")


@contextlib.asynccontextmanager
async def jump_host_dies(scene: Scene) -> AsyncIterator[Trouble]:
    async with Sshd(scene.path / "jump", client=scene.sshd.client) as jump:
        fields = {"host": jump.host, "port": jump.port, "user": jump.user}
        fields |= {"privateKey": jump.client_key, "knownHosts": jump.known_hosts}
        hop = ", ".join(f"{key}: {value}" for key, value in fields.items())
        text = scene.target(jumpHost=f"{{{hop}}}") + scene.line
        yield Trouble(text, begin=jump.stop, end=jump.start, says="jump host")


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[None]:
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("only root can make a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


@contextlib.asynccontextmanager
async def disk_full_under_known_hosts(scene: Scene) -> AsyncIterator[Trouble]:
    disk = scene.path / "disk"
    known, ballast = disk / "known_hosts", disk / "ballast"
    with small_disk(disk):
        known.write_text("# mine\n")
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

        async def room() -> None:
            assert known.read_text() == "# mine\n", "what could not be extended is as it was"
            ballast.unlink()

        text = scene.target(knownHosts=known, strictHostKeyChecking="accept-new") + scene.line
        yield Trouble(text, end=room, says="No space left")


TABLE: list[tuple[Fault, Phase, Reason]] = [
    (silent_listener, Phase.DOWN, Reason.TIMEOUT),
    (one_byte_a_second, Phase.DOWN, Reason.TIMEOUT),
    (channel_never_answered, Phase.UNHEALTHY, Reason.DESTINATION),
    (name_unknown, Phase.DOWN, Reason.DNS),
    (name_moved, Phase.DOWN, Reason.REFUSED),
    (host_key_changed, Phase.DOWN, Reason.HOST_KEY),
    (wrong_password, Phase.DOWN, Reason.AUTH),
    (locked_key, Phase.DOWN, Reason.SECRET_UNREADABLE),
    (local_port_taken, Phase.DOWN, Reason.LOCAL_PORT_IN_USE),
    (remote_port_taken, Phase.DOWN, Reason.REMOTE_PORT_IN_USE),
    (jump_host_dies, Phase.DOWN, Reason.REFUSED),
    (disk_full_under_known_hosts, Phase.DOWN, Reason.RESOURCES),
]


@pytest.mark.parametrize(("fault", "phase", "reason"), TABLE, ids=[fault.__name__ for fault, _, _ in TABLE])
async def test_a_fault_is_reported_affects_no_other_tunnel_and_heals(
    fault: Fault,
    phase: Phase,
    reason: Reason,
    echo: EchoServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Sshd(tmp_path / "well") as well, Sshd(tmp_path / "sick") as sick:
        scene = Scene(sick, echo, tmp_path, monkeypatch)
        port = free_port()
        async with fault(scene) as trouble:
            text = "targets:\n" + target(well, "well") + local("echo", port, echo.port) + trouble.text
            async with running(tmp_path, text) as tunnels:
                await tunnels.until("well/echo", Phase.UP)
                async with moving([port], pause=0.001) as (mover,):
                    await until_reported(tunnels, trouble, phase, reason)
                    await mover.moves()
                    if trouble.end is not None:
                        await trouble.end()
                        await tunnels.until(SICK, Phase.UP)
                    assert not [one for one in tunnels.changes if one.subject.target == "well" and one.is_trouble]


async def until_reported(tunnels: Running, trouble: Trouble, phase: Phase, reason: Reason) -> None:
    """Begin the fault and wait until the tunnel reports it."""
    if trouble.begin is not None:
        await tunnels.until(SICK, Phase.UP)
        await trouble.begin()
    if trouble.clients is not None:
        await tunnels.until(SICK, Phase.UP)
        await trouble.clients()

    def is_reported() -> bool:
        verdict = tunnels.verdict(SICK)
        if verdict is None or (verdict.phase, verdict.reason) != (phase, reason):
            return False
        return trouble.says in verdict.message

    await eventually(is_reported, message=lambda: f"{phase}, {reason}, {trouble.says}; it is {tunnels.verdict(SICK)}")
    verdict = tunnels.verdict(SICK)
    assert verdict is not None
    assert verdict.needs_action == (reason in NEEDS_ACTION)
