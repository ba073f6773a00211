"""Files that a configuration names and that are devices, pipes, or on a disk that does not answer.

Each affects only its own target, which reports the reason. The other target's clients are not delayed. When the files
are repaired, all tunnels are up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from reconciler.core.observed import Phase, Reason
from reconciler.system import read_file
from support.costly_keys import bcrypt_key, pkcs8_key, rsa_key
from support.keys import KeyPair, Keys
from support.services import EchoServer, connected
from support.special_files import NOTHING, SPECIAL, put
from support.sshd import Sshd
from support.tunnels import Running, local, running, socks, target
from support.wait import WITHIN, eventually, free_port

FIELDS = ("privateKey", "passphrase", "certificate", "password", "knownHosts")


class Case:
    """A target `neighbour`, and one target for each field that names a file, each with its own file."""

    def __init__(self, directory: Path, sshd: Sshd, echo: EchoServer) -> None:
        self.sshd, self.echo = sshd, echo
        self.named = directory / "named"
        keys = Keys(self.named)
        client = asyncssh.read_private_key(sshd.client_key)
        self.path = {field: self.named / field for field in FIELDS}
        keys.write("privateKey", client)
        encrypted = keys.write("encrypted", client, passphrase="secret")
        self.path["passphrase"].write_text("secret\n")
        plain = KeyPair(keys.write("plain", client).private)
        keys.certify(plain, keys.make("authority"), principals=[sshd.user]).rename(self.path["certificate"])
        self.path["password"].write_text("none of sshd's")
        self.path["knownHosts"].write_text(sshd.known_hosts.read_text())
        self.socks_password = self.named / "socks"
        self.socks_password.write_text("secret")
        self.port = free_port()
        of_fields: dict[str, dict[str, object]] = {
            "privateKey": {"privateKey": self.path["privateKey"]},
            "passphrase": {"privateKey": encrypted.private, "passphrase": f"{{file: {self.path['passphrase']}}}"},
            "certificate": {"privateKey": plain.private, "certificate": self.path["certificate"]},
            "password": {"password": f"{{file: {self.path['password']}}}"},
            "knownHosts": {"knownHosts": self.path["knownHosts"]},
        }
        user = f"{{username: u, password: {{file: {self.socks_password}}}}}"
        self.neighbour = target(sshd, "neighbour") + local("echo", self.port, echo.port)
        self.neighbour += socks("proxy", free_port(), auth=user)
        self.others = "".join(
            target(sshd, field.lower(), **fields) + local("echo", free_port(), echo.port)
            for field, fields in of_fields.items()
        )
        self.text = f"targets:\n{self.neighbour}{self.others}"
        self.content = {path: path.read_bytes() for path in (*self.path.values(), self.socks_password)}

    def repair(self, path: Path) -> None:
        def write(beside: Path) -> None:
            beside.touch(0o600)
            beside.write_bytes(self.content[path])

        put(path, write)


@pytest.fixture
def case(tmp_path: Path, sshd: Sshd, echo: EchoServer) -> Case:
    return Case(tmp_path, sshd, echo)


@contextlib.asynccontextmanager
async def undisturbed(port: int) -> AsyncIterator[None]:
    """Check that a client of `neighbour` gets its answers during the block, on one client connection.

    Before these files were read in threads, the first of them ended all answers for good.
    """
    rounds, over = 0, asyncio.Event()

    async def go() -> None:
        nonlocal rounds
        async with connected("127.0.0.1", port) as (reader, writer):
            while not over.is_set():
                writer.write(b"ping")
                assert await reader.readexactly(4) == b"ping"
                rounds += 1
                await asyncio.sleep(0.005)

    async def one_more() -> None:
        before = rounds
        await eventually(lambda: rounds > before or task.done())

    task = asyncio.create_task(go())
    try:
        await one_more()
        yield
        await one_more()
    finally:
        over.set()
        await task


def failure_of(tunnels: Running, field: str) -> str:
    """Return the message of this field's target if it needs action, else ""."""
    tries = tunnels.engine.actuator.observe().link_tries.get(field.lower())
    if tries is None:
        return ""
    assert tries.last.reason is (Reason.HOST_KEY if field == "knownHosts" else Reason.SECRET_UNREADABLE)
    assert tries.last.needs_action
    return tries.last.message


def nothing_is_told(tunnels: Running) -> bool:
    status = tunnels.engine.status
    return status is not None and all(target.verdict.reason is None for target in status.targets)


@pytest.mark.parametrize("kind", [*SPECIAL, *NOTHING])
async def test_files_that_become_special_affect_only_their_targets(case: Case, tmp_path: Path, kind: str) -> None:
    make, said = (SPECIAL | NOTHING)[kind]
    if kind in NOTHING:  # an empty or missing known_hosts file is valid
        del case.path["knownHosts"]
    async with running(tmp_path, case.text) as tunnels:
        await tunnels.all_up()
        (neighbour,) = (link for link in tunnels.links if link.target == "neighbour")
        async with undisturbed(case.port):
            for field, path in case.path.items():
                put(path, make)
                tunnels.restart(field.lower())
            put(case.socks_password, make)
            for field, path in case.path.items():
                message = await eventually(partial(failure_of, tunnels, field))
                assert str(path) in message
                assert said.lower() in message.lower()
            verdict = await tunnels.until("neighbour/proxy", Phase.UNHEALTHY)
            assert str(case.socks_password) in verdict.message
            for path in (*case.path.values(), case.socks_password):
                case.repair(path)
            await tunnels.all_up()
            await eventually(lambda: nothing_is_told(tunnels))
        assert neighbour in tunnels.links


@pytest.mark.parametrize("kind", ["a pipe", "/dev/zero", "/dev/ptmx"])
async def test_files_that_are_special_from_the_start(case: Case, tmp_path: Path, kind: str) -> None:
    make, said = SPECIAL[kind]
    for path in case.path.values():
        put(path, make)
    async with running(tmp_path, f"targets:\n{case.neighbour}") as tunnels:
        await tunnels.all_up()
        async with undisturbed(case.port):
            tunnels.edit(case.text)
            for field, path in case.path.items():
                verdict = await tunnels.until(f"{field.lower()}/echo", Phase.DOWN)
                assert str(path) in verdict.message
                assert said.lower() in verdict.message.lower()
                assert verdict.needs_action


@pytest.mark.parametrize("kind", SPECIAL)
async def test_a_configuration_that_becomes_special_changes_nothing(
    case: Case, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.config.syntax.config_files._PIPE_IDLE", 0.5)
    make, said = SPECIAL[kind]
    async with running(tmp_path, f"targets:\n{case.neighbour}") as tunnels:
        await tunnels.all_up()
        links = tunnels.links
        async with undisturbed(case.port):
            put(tunnels.file, make)
            if kind == "a directory":
                said = "no *.yaml"
            elif kind == "a pipe":
                said = "timed out waiting for data from the pipe"
            errors = await eventually(
                lambda: "".join(map(str, tunnels.app.loaded.errors)) if tunnels.app.loaded else ""
            )
            assert str(tunnels.file) in errors
            assert said in errors
            assert tunnels.links == links
            put(tunnels.file, partial(write, case.text))
            await tunnels.all_up(*("neighbour/echo", "neighbour/proxy"), *(f"{one.lower()}/echo" for one in FIELDS))


async def test_slow_known_hosts_do_not_delay_other_targets(case: Case, tmp_path: Path) -> None:
    slow = case.named / "slow"
    slow.write_bytes(b",".join([b"*" + b"1" * 120 + b"x"] * 8000) + b" ssh-ed25519 AAAA\n")
    alias = "1" * 250
    many = "".join(
        target(case.sshd, f"slow{number}", knownHosts=slow, hostKeyAlias=f'"{alias}"')
        + local("echo", free_port(), case.echo.port)
        for number in range(12)
    )
    async with running(tmp_path, f"targets:\n{case.neighbour}") as tunnels:
        await tunnels.all_up()
        (before,) = tunnels.links
        async with undisturbed(case.port):
            tunnels.edit(f"targets:\n{case.neighbour}{many}")
            await eventually(lambda: tunnels.verdict("slow11/echo") is not None)
            tunnels.restart("neighbour")
            is_new = lambda: any(one.target == "neighbour" and one is not before for one in tunnels.links)  # noqa: E731
            await eventually(is_new)  # each of the other targets takes 10 s of CPU time


COSTLY = {
    "an RSA key of 8,676 bits": (partial(rsa_key, 4253, 4423), "refused the login"),
    "an RSA key of 21,154 bits": (partial(rsa_key, 9941, 11213), "at most 16384"),
    "a key of 2^32 bcrypt rounds": (partial(bcrypt_key, 2**32 - 1), "hashed 4294967295 times"),
    "a key of 2^31 PBKDF2 rounds": (partial(pkcs8_key, 2**31 - 1), "hashed 2147483647 times"),
}


@pytest.mark.parametrize("kind", COSTLY)
async def test_an_expensive_key_affects_only_its_target(case: Case, tmp_path: Path, kind: str) -> None:
    make, said = COSTLY[kind]
    path = case.named / "costly"
    path.write_bytes(make())
    path.chmod(0o600)
    more = {"privateKey": path, "passphrase": f"{{file: {case.path['passphrase']}}}"}
    costly = target(case.sshd, "costly", **more) + local("echo", free_port(), case.echo.port)
    async with running(tmp_path, f"targets:\n{case.neighbour}") as tunnels:
        await tunnels.all_up()
        async with undisturbed(case.port):
            tunnels.edit(f"targets:\n{case.neighbour}{costly}")
            verdict = await tunnels.until("costly/echo", Phase.DOWN)
            assert said in verdict.message


def write(text: str, path: Path) -> None:
    path.write_text(text)


# --- a disk that does not answer --------------------------------------------------------------------------------


class Disk:
    """A simulated disk: reads of the files in `silent` block until `answer`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.silent: set[str] = set()
        self._go = threading.Event()
        require = read_file._require_regular

        def wait(status: os.stat_result, path: str) -> None:
            if path in self.silent:
                assert self._go.wait(120)
            require(status, path)

        monkeypatch.setattr(read_file, "_require_regular", wait)

    def answer(self) -> None:
        self.silent.clear()
        self._go.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(monkeypatch)
    yield made
    made.answer()


async def test_a_disk_that_hangs_affects_only_the_targets_of_its_files(case: Case, disk: Disk, tmp_path: Path) -> None:
    async with running(tmp_path, f"targets:\n{case.neighbour}") as tunnels:
        await tunnels.all_up()
        async with undisturbed(case.port):
            disk.silent |= {str(path) for path in (*case.path.values(), case.socks_password)}
            tunnels.edit(case.text)
            for field, path in case.path.items():
                message = await eventually(partial(failure_of, tunnels, field), within=WITHIN)
                assert str(path) in message
                assert "answer" in message
            new = target(case.sshd, "new") + local("echo", free_port(), case.echo.port)
            tunnels.edit(case.text + new)
            await tunnels.until("new/echo", Phase.UP)
            assert sum(thread.name == "file" for thread in threading.enumerate()) < 30
            disk.answer()
            await tunnels.all_up()


async def test_many_files_on_a_hanging_disk_do_not_block_files_on_others(
    case: Case, disk: Disk, tmp_path: Path
) -> None:
    silent = [case.named / f"silent{number}" for number in range(100)]
    for path in silent:
        path.write_bytes(case.sshd.client_key.read_bytes())
    disk.silent |= set(map(str, silent))
    many = "".join(
        target(case.sshd, f"silent{number}", privateKey=path) + local("echo", free_port(), case.echo.port)
        for number, path in enumerate(silent)
    )
    async with running(tmp_path, f"targets:\n{case.neighbour}") as tunnels:
        await tunnels.all_up()
        async with undisturbed(case.port):
            tunnels.edit(case.text + many)
            for field in FIELDS:
                await tunnels.until(f"{field.lower()}/echo", Phase.UP, within=2 * WITHIN)
            await eventually(lambda: failure_of_silent(tunnels), within=2 * WITHIN)
            disk.answer()
            await tunnels.all_up(within=4 * WITHIN)


def failure_of_silent(tunnels: Running) -> bool:
    tries = tunnels.engine.actuator.observe().link_tries
    return all(f"silent{number}" in tries for number in range(100))


# --- the event loop's thread ------------------------------------------------------------------------------------

TOUCHING = [(os, name) for name in ("stat", "lstat", "open", "readlink", "scandir", "listdir", "access", "replace")]


async def test_no_path_of_the_configuration_is_used_on_the_event_loop(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched: dict[bool, list[str]] = {False: [], True: []}
    loop_thread = threading.get_ident()
    watching = False

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            path = args[0] if args and isinstance(args[0], str | os.PathLike) else ""
            if watching and (kwargs.keys() & {"dir_fd", "src_dir_fd"} or os.fspath(path).startswith(str(case.named))):
                touched[threading.get_ident() == loop_thread].append(f"{name} {path}")
            return function(*args, **kwargs)

        return noted

    for module, name in (*TOUCHING, (io, "open")):
        monkeypatch.setattr(module, name, noting(name, getattr(module, name)))
    new = case.named / "new"
    new.touch()
    pinning = {"knownHosts": new, "strictHostKeyChecking": "accept-new"}
    text = case.text + target(case.sshd, "new", **pinning) + local("echo", free_port(), case.echo.port)
    watching = True
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        watching = False
        case.path["privateKey"].write_bytes(case.content[case.path["privateKey"]] + b"\n")
        case.path["knownHosts"].write_bytes(b"# more\n" + case.content[case.path["knownHosts"]])
        watching = True
        links = tunnels.links
        for name in (*FIELDS, "new"):
            tunnels.restart(name.lower())
        await eventually(lambda: len(set(tunnels.links) & set(links)) == 1)
        await tunnels.app.load()
        watching = False
        assert new.read_text().startswith("|1|")
    assert touched[True] == []
    assert {line.split()[0] for line in touched[False]} >= {"stat", "open", "replace"}
    assert {Path(line.split()[1]).name for line in touched[False]} >= {*FIELDS, "socks", "new"}
