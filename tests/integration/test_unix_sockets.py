"""Unix sockets on both sides: modes and groups, sockets left by killed processes, and other programs' files."""

from __future__ import annotations

import asyncio
import grp
import os
import socket
import stat
import sys
from functools import partial
from pathlib import Path

import pytest

from reconciler.core.observed import Phase
from support.dropbear import Dropbear
from support.services import EchoServer, by_unix, connected, exchange
from support.sshd import Sshd
from support.tunnels import file, local, running, tunnel
from support.wait import eventually, free_port


async def test_a_socket_has_the_configured_mode_and_group(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    path, theirs = tmp_path / "poetry", tmp_path / "poetry.lock"
    theirs.write_text("")
    groups = (one for one in grp.getgrall() if one.gr_gid in os.getgroups() or os.geteuid() == 0)
    if (group := next(groups, None)) is None:
        pytest.skip("this process is in no group that has a name")
    line = listening(path, echo.port, mode='"0660"', group=group.gr_name)
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        status = path.lstat()
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o660
        assert status.st_gid == group.gr_gid
        assert await exchange("", 0, opening=by_unix(path)) == b"ping"
    assert list(tmp_path.glob("*poetry*")) == [theirs], "only its own socket and lock are removed"


async def test_a_socket_is_private_by_default(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    path = tmp_path / "db.sock"
    async with running(tmp_path, file(sshd, listening(path, echo.port))) as tunnels:
        await tunnels.all_up()
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600


async def test_a_socket_that_a_killed_process_left_is_replaced(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    path = tmp_path / "db.sock"
    leave = f"import os, socket; s = socket.socket(socket.AF_UNIX); s.bind({str(path)!r}); s.listen(); os._exit(9)"
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", leave)
    assert await killed.wait() == 9
    assert path.is_socket()
    async with running(tmp_path, file(sshd, listening(path, echo.port))) as tunnels:
        await tunnels.all_up()
        assert await exchange("", 0, opening=by_unix(path)) == b"ping"


async def test_a_live_socket_is_not_replaced_until_it_is_gone(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    path = tmp_path / "db.sock"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        theirs.setblocking(False)
        inode = path.lstat().st_ino
        async with running(tmp_path, file(sshd, listening(path, echo.port))) as tunnels:
            verdict = await tunnels.until("server/db", Phase.DOWN)
            assert verdict.reason == "local_port_in_use"
            assert path.lstat().st_ino == inode
            theirs.close()
            await tunnels.until("server/db", Phase.UP)
            assert await exchange("", 0, opening=by_unix(path)) == b"ping"


async def test_two_processes_do_not_replace_each_others_socket(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    path = tmp_path / "db.sock"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with running(tmp_path / "one", file(sshd, listening(path, echo.port))) as one:
        await one.all_up()
        async with running(tmp_path / "two", file(sshd, listening(path, echo.port))) as two:
            await two.until("server/db", Phase.DOWN)
            assert await exchange("", 0, opening=by_unix(path)) == b"ping"
            assert one.meter("server/db").results == {"ok": 1}
        assert path.is_socket(), "the process that did not bind it does not remove it"


@pytest.mark.parametrize("kind", ["file", "directory", "link to a file"])
async def test_another_file_is_never_removed(sshd: Sshd, echo: EchoServer, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "precious"
    if kind == "directory":
        path.mkdir()
    elif kind == "file":
        path.write_text("precious")
    else:
        (tmp_path / "precious text").write_text("precious")
        path.symlink_to("precious text")
    async with running(tmp_path, file(sshd, listening(path, echo.port))) as tunnels:
        verdict = await tunnels.until("server/db", Phase.DOWN)
        assert verdict.reason == "bind"
        assert verdict.needs_action
        assert "not a socket" in verdict.message
    assert path.is_dir() if kind == "directory" else path.read_text() == "precious"


async def test_a_missing_directory_is_reported(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    path = tmp_path / "not there" / "db.sock"
    async with running(tmp_path, file(sshd, listening(f'"{path}"', echo.port))) as tunnels:
        verdict = await tunnels.until("server/db", Phase.DOWN)
        assert verdict.reason == "bind"
        assert str(path) in verdict.message


async def test_an_unknown_group_is_reported(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    path = tmp_path / "db.sock"
    async with running(tmp_path, file(sshd, listening(path, echo.port, group="no-such-group"))) as tunnels:
        verdict = await tunnels.until("server/db", Phase.DOWN)
        assert "no-such-group" in verdict.message
        assert not list(tmp_path.glob("db.sock*")), "nothing is left of what was not wanted"


async def test_a_client_of_a_unix_socket_is_held_while_the_link_is_down(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    path = tmp_path / "db.sock"
    async with running(tmp_path, file(sshd, listening(path, echo.port))) as tunnels:
        await tunnels.all_up()
        await sshd.stop()
        await tunnels.until("server/db", Phase.DOWN)
        client = asyncio.create_task(exchange("", 0, opening=by_unix(path)))
        await eventually(lambda: tunnels.meter("server/db").held == 1)
        await sshd.start()
        assert await client == b"ping"


async def test_a_missing_unix_socket_on_the_server_marks_the_tunnel(sshd: Sshd, tmp_path: Path) -> None:
    port = free_port()
    line = tunnel("db", "local", localPort=port, remoteSocket=tmp_path / "missing.sock")
    async with running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        for _ in range(3):
            with pytest.raises(ConnectionResetError):
                await exchange("127.0.0.1", port)
        verdict = await tunnels.until("server/db", Phase.UNHEALTHY)
        assert verdict.reason == "destination"
        assert "missing.sock" in verdict.message


async def test_a_dial_waits_for_a_unix_socket_with_a_full_queue(sshd: Sshd, tmp_path: Path) -> None:
    """connect(2) on a unix socket does not queue: it fails at once with EAGAIN."""
    port, path = free_port(), tmp_path / "busy.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(path))
        busy.listen(0)
        first.connect(str(path))
        line = tunnel("back", "remote", remotePort=port, localSocket=path)
        async with running(tmp_path, file(sshd, line)) as tunnels:
            await tunnels.all_up()
            async with connected("127.0.0.1", port) as (reader, writer):
                writer.write(b"hello")
                await asyncio.sleep(0.1)  # the client may connect now or later: both must work
                busy.setblocking(False)
                (await asyncio.get_running_loop().sock_accept(busy))[0].close()  # the first one
                served, _ = await asyncio.get_running_loop().sock_accept(busy)
                with served:
                    served.setblocking(False)
                    assert await asyncio.get_running_loop().sock_recv(served, 5) == b"hello"
                    await asyncio.get_running_loop().sock_sendall(served, b"hi")
                    assert await reader.readexactly(2) == b"hi"


async def test_a_server_that_cannot_forward_unix_sockets_is_named_as_the_cause(
    dropbear: Dropbear, echo: EchoServer, tmp_path: Path
) -> None:
    port, other = free_port(), free_port()
    to, listen = tmp_path / "to.sock", tmp_path / "listen.sock"
    lines = (
        tunnel("to", "local", localPort=port, remoteSocket=to)
        + tunnel("listen", "remote", remoteSocket=listen, localHost="127.0.0.1", localPort=echo.port)
        + local("other", other, echo.port)
    )
    async with running(tmp_path, file(dropbear, lines)) as tunnels:
        await tunnels.until("server/listen", Phase.DOWN)
        for _ in range(3):
            with pytest.raises(ConnectionResetError):
                await exchange("127.0.0.1", port)
        verdict = await tunnels.until("server/to", Phase.UNHEALTHY)
        assert verdict.reason == "forbidden_by_server"
        assert await exchange("127.0.0.1", other) == b"ping"


async def test_a_server_that_forbids_unix_listeners_is_named_as_the_cause(tmp_path: Path) -> None:
    line = tunnel("back", "remote", remoteSocket=tmp_path / "back.sock", localHost="127.0.0.1", localPort=1)
    async with Sshd(tmp_path / "sshd", options={"AllowStreamLocalForwarding": "no"}) as sshd:
        async with running(tmp_path, file(sshd, line)) as tunnels:
            verdict = await tunnels.until("server/back", Phase.DOWN)
            assert verdict.reason == "forbidden_by_server"
            assert "AllowStreamLocalForwarding" in verdict.message


async def test_a_stale_unix_listener_on_the_server_is_reported_and_replaced(tmp_path: Path, echo: EchoServer) -> None:
    """Sshd leaves the socket file of an ended session, and replaces it only with StreamLocalBindUnlink."""
    path = tmp_path / "back.sock"
    line = tunnel("back", "remote", remoteSocket=path, localHost="127.0.0.1", localPort=echo.port)
    async with Sshd(tmp_path / "sshd") as sshd, running(tmp_path, file(sshd, line)) as tunnels:
        await tunnels.all_up()
        assert await exchange("", 0, opening=by_unix(path)) == b"ping"
        await sshd.restart()
        verdict = await tunnels.until("server/back", Phase.DOWN)
        await eventually(lambda: "StreamLocalBindUnlink" in message(tunnels.verdict("server/back")))
        path.unlink()
        verdict = await tunnels.until("server/back", Phase.UP)
        assert verdict.message == ""
        assert await exchange("", 0, opening=by_unix(path)) == b"ping"


async def test_a_new_link_takes_a_unix_listener_over(tmp_path: Path, echo: EchoServer) -> None:
    path = tmp_path / "back.sock"
    line = tunnel("back", "remote", remoteSocket=path, localHost="127.0.0.1", localPort=echo.port)
    async with Sshd(tmp_path / "sshd", options={"StreamLocalBindUnlink": "yes"}) as sshd:
        async with running(tmp_path, file(sshd, line)) as tunnels:
            await tunnels.all_up()
            async with connected("", 0, by_unix(path)) as (reader, writer):
                writer.write(b"there")
                assert await reader.readexactly(5) == b"there"
                old = tunnels.links[0]
                tunnels.restart("server")
                await eventually(lambda: tunnels.links[-1] is not old)
                await eventually(partial(answers, path))
                await tunnels.all_up()
                writer.write(b"still there")
                assert await reader.readexactly(11) == b"still there"
            await eventually(lambda: old not in tunnels.links)
            assert await exchange("", 0, opening=by_unix(path)) == b"ping"


async def answers(path: Path) -> bool:
    try:
        return await exchange("", 0, opening=by_unix(path)) == b"ping"
    except OSError:
        return False


def listening(path: Path | str, to: int, **fields: object) -> str:
    """Return the line of a local forward that listens on a unix socket."""
    return tunnel("db", "local", localSocket=path, remoteHost="127.0.0.1", remotePort=to, **fields)


def message(verdict: object) -> str:
    return str(getattr(verdict, "message", ""))
