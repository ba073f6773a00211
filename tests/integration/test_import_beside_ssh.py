"""Hosts of an ssh_config: the tunnels that `tunnels import` makes carry the same client traffic as ssh does."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from integration.commands import program, ran
from support.agent import ssh_add, ssh_agent
from support.keys import Keys
from support.processes import tied_to_parent
from support.services import EchoServer, Opening, by_tcp, by_unix, exchange
from support.socks_client import by_socks
from support.sshd import Sshd
from support.wait import eventually, free_port

_WITHIN = 20.0


@dataclass(frozen=True)
class Case:
    """A Host block, and the ways in which clients use it."""

    name: str
    config: str
    clients: Mapping[str, tuple[str, int, Opening]]


def tcp(*hosts: str, port: int) -> dict[str, tuple[str, int, Opening]]:
    return {f"{host} port {port}": (host, port, by_tcp) for host in hosts}


def unix(path: Path) -> dict[str, tuple[str, int, Opening]]:
    return {str(path): ("", 0, by_unix(path))}


async def answers(case: Case) -> dict[str, bool]:
    """Return for each kind of client whether the echo service answers it."""
    found: dict[str, bool] = {}
    for label, (host, port, opening) in case.clients.items():
        try:
            found[label] = await exchange(host, port, opening=opening) == b"ping"
        except (OSError, EOFError):
            found[label] = False
    return found


@contextlib.asynccontextmanager
async def started(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *tied_to_parent(list(command)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()


async def by_ssh(case: Case, config: Path) -> dict[str, bool]:
    async with started("ssh", "-N", "-F", str(config), "-o", "BatchMode=yes", case.name):
        return await settled(case)


async def settled(case: Case) -> dict[str, bool]:
    """Wait until at least one client of the case is served, then return the answers."""

    async def serves() -> bool:
        return any((await answers(case)).values())

    await eventually(serves, within=_WITHIN, message=f"{case.name} serves a client")
    return await answers(case)


def cases(directory: Path, sshd: Sshd, echo: EchoServer, unix_echo: Path, config: Path) -> Sequence[Case]:
    ports = iter([free_port() for _ in range(16)])
    to = f"127.0.0.1:{echo.port}"
    proxy = f"ssh -F {config} -W %h:%p gate"

    def local(name: str, more: str) -> Case:
        port = next(ports)
        return Case(name, f"{more}\nLocalForward {port} {to}", tcp("127.0.0.1", "::1", "127.0.0.2", port=port))

    wide, at, there, proxy_port, named = (next(ports) for _ in range(5))
    path = directory / "a socket.sock"
    return [
        local("default-address", ""),
        local("jump", "ProxyJump gate"),
        local("ssh-in-proxy-command", f"ProxyCommand {proxy}"),
        local("shell-in-proxy-command", f"ProxyCommand {proxy} | cat"),
        local("agent-key-beside-an-encrypted-one", f"IdentityFile none\nIdentityFile {directory}/encrypted"),
        local("certificate-under-another-name", f"IdentityFile {directory}/plain\nCertificateFile {directory}/signed"),
        local("alias-of-the-host-key", f'HostKeyAlias cluster\nUserKnownHostsFile "{directory}/known by alias"'),
        local("missing-key-first", f"IdentityFile {directory}/missing\nIdentityFile {sshd.client_key}"),
        local("slow-settings", "Compression YES\nCiphers aes256-ctr\nConnectTimeout 1m30s\nServerAliveInterval 10"),
        Case("every-address", f"GatewayPorts Yes\nLocalForward {wide} {to}", tcp("127.0.0.1", "127.0.0.2", port=wide)),
        Case("one-address", f"LocalForward 127.0.0.2:{at} {to}", tcp("127.0.0.1", "127.0.0.2", port=at)),
        Case("remote", f"RemoteForward {there} {to}", tcp("127.0.0.1", "::1", "127.0.0.2", port=there)),
        Case(
            "socks",
            f"DynamicForward {proxy_port}",
            {"socks": ("127.0.0.1", echo.port, by_socks(proxy_port))},
        ),
        Case("socket-here", f'LocalForward "{path}" {to}', unix(path)),
        Case("socket-there", f"LocalForward {named} {unix_echo}", tcp("127.0.0.1", "::1", port=named)),
    ]


async def test_hosts_of_an_ssh_config_serve_clients_as_ssh_does(tmp_path: Path, keys: Keys) -> None:
    authority = keys.make("authority")
    options = {"TrustedUserCAKeys": str(authority.public)}
    agent, config, sockets = tmp_path / "agent.sock", tmp_path / "config", tmp_path / "echo.sock"
    async with (
        Sshd(tmp_path / "sshd", options=options) as sshd,
        EchoServer() as echo,
        EchoServer(path=sockets),
        ssh_agent(agent),
    ):
        prepare(tmp_path, keys, sshd)
        add_to_agent(tmp_path, keys, sshd, agent)
        found = cases(tmp_path, sshd, echo, sockets, config)
        agents = {"agent-key-beside-an-encrypted-one": str(agent)}
        blocks = [f"Host {one.name}\n{one.config}\nIdentityAgent {agents.get(one.name, 'none')}\n" for one in found]
        config.write_text("".join(blocks) + common(sshd))
        expected = dict(
            zip((one.name for one in found), await asyncio.gather(*(by_ssh(one, config) for one in found)), strict=True)
        )
        imported = await ran("import", "--allow-commands", "--ssh-config", config, env={"HOME": str(tmp_path)})
        assert imported.code == 0, imported.err
        (tmp_path / "a socket.sock").unlink(missing_ok=True)
        async with program(tmp_path, imported.out, "--allow-commands"):
            made = await asyncio.gather(*map(settled, found))
        assert dict(zip(expected, made, strict=True)) == expected


def prepare(directory: Path, keys: Keys, sshd: Sshd) -> None:
    """Make the files that the cases name."""
    keys_here = Keys(directory)
    plain = keys_here.make("plain")
    authority = keys.write("authority", asyncssh.read_private_key(keys.directory / "authority"))
    keys_here.certify(plain, authority, principals=[sshd.user]).rename(directory / "signed")
    (directory / "known by alias").write_text(f"cluster {sshd.host_public_key}\n")


def add_to_agent(directory: Path, keys: Keys, sshd: Sshd, agent: Path) -> None:
    """Make a key that only the agent can use: its file is encrypted."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    sshd.authorize(keys.write("open", key))
    Keys(directory).write("encrypted", key, passphrase="secret")
    ssh_add(agent, keys.directory / "open")


def common(sshd: Sshd) -> str:
    """Return the last block of the file. For each keyword an earlier block wins, but IdentityFile adds up."""
    with_key = "Host * !agent-* !certificate-* !missing-*\nIdentityFile " + str(sshd.client_key)
    return f"""
{with_key}
Host *
HostName 127.0.0.1
Port {sshd.port}
User {sshd.user}
UserKnownHostsFile {sshd.known_hosts}
IdentitiesOnly yes
"""
