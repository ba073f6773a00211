"""What a proxy command writes to its standard error when it ends, in the message of the link or the login."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from integration.dialling import access, failure_of, hop, settings
from reconciler.core.observed import Failure, Reason
from reconciler.ssh.connect.dial import dial
from reconciler.ssh.link.link import Link, LinkClient
from support.asyncssh_server import AsyncsshServer
from support.sshd import Sshd
from support.wait import eventually

# Relays until the file sys.argv[3] exists, and ends with a text on standard error.
RELAY = """
import os, pathlib, select, socket, sys
print("warning: this is said at the start", file=sys.stderr, flush=True)
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
end = pathlib.Path(sys.argv[3])
while not end.exists():
    ready, _, _ = select.select([0, sock], [], [], 0.01)
    if 0 in ready:
        sock.sendall(os.read(0, 65536))
    if sock in ready:
        os.write(1, sock.recv(65536))
sys.stderr.write(end.read_text())
sys.exit(int(sys.argv[4]))
"""


def relay(end: Path, status: int = 1) -> tuple[str, ...]:
    return (sys.executable, "-c", RELAY, "%h", "%p", str(end), str(status))


def writing(end: Path, text: str) -> Callable[[], Awaitable[None]]:
    """Return what writes the file, at once: the program may read it as soon as it exists."""

    async def write() -> None:
        end.with_suffix(".new").write_text(text)
        end.with_suffix(".new").rename(end)

    return write


async def lost(sshd: Sshd, command: tuple[str, ...], end: Callable[[], Awaitable[None]]) -> Failure:
    """The failure of a link that `end` ends."""
    failures: list[Failure] = []
    client = LinkClient()
    to = access(hop(sshd), proxy_command=command)
    dialled = await dial(to, settings(), 1, name="test", client=lambda: client, environ={})
    link = Link(1, "test", dialled, client, settings(), lost=failures.append, recovered=lambda: None)
    await end()
    await eventually(lambda: failures)
    await link.connection.wait_closed()
    return failures[0]


@pytest.mark.parametrize("status", [0, 1])
async def test_the_last_line_explains_the_end_of_a_link(sshd: Sshd, tmp_path: Path, status: int) -> None:
    end = tmp_path / "end"
    failure = await lost(sshd, relay(end, status), writing(end, "Timeout, server \x1b[2J not responding.\n\n"))
    assert failure.reason is Reason.CLOSED_BY_SERVER
    assert f"; the proxy command {sys.executable} says `Timeout, server \\x1b[2J not responding.`" in failure.what


async def test_a_line_from_before_the_login_does_not_explain_the_end(sshd: Sshd, tmp_path: Path) -> None:
    end = tmp_path / "end"
    assert "says" not in (await lost(sshd, relay(end), writing(end, ""))).what


async def test_the_words_of_ssh_explain_the_end_of_its_connection(sshd: Sshd, asyncssh_server: AsyncsshServer) -> None:
    options = [f"UserKnownHostsFile={asyncssh_server.known_hosts}", f"IdentityFile={asyncssh_server.client_key}"]
    arguments = [text for option in options for text in ("-o", option)]
    login = f"{asyncssh_server.user}@{asyncssh_server.host}"
    command = ("ssh", "-F", "none", *arguments, "-p", str(asyncssh_server.port), "-W", "%h:%p", login)
    failure = await lost(sshd, command, asyncssh_server.stop)
    assert "the proxy command ssh says `" in failure.what


async def test_the_last_line_explains_a_login_that_ends(sshd: Sshd, tmp_path: Path) -> None:
    """The program ends in the middle of the key exchange."""
    program = RELAY.replace("while not end.exists():", "for _ in range(3):").replace(
        "end.read_text()", "'quota reached'"
    )
    command = (sys.executable, "-c", program, "%h", "%p", str(tmp_path / "end"), "0")
    assert "says `quota reached`" in (await failure_of(access(hop(sshd), proxy_command=command))).what


async def test_the_last_line_explains_a_silence(sshd: Sshd) -> None:
    command = ("sh", "-c", "echo 'waiting for approval' >&2; exec sleep 1000")
    failure = await failure_of(access(hop(sshd), proxy_command=command), connect_timeout=0.5)
    assert failure.reason is Reason.TIMEOUT
    assert "the proxy command sh says `waiting for approval`" in failure.what
