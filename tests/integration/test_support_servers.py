"""The servers of the test support behave as documented."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

import asyncssh
import pytest

from support.asyncssh_server import AsyncsshServer, Request
from support.dropbear import Dropbear
from support.keys import Keys
from support.postgres import Postgres, PsqlError, psql
from support.processes import children, is_alive, with_descendants
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.wait import eventually, free_port


async def login(server: Sshd | Dropbear | AsyncsshServer, **options: object) -> asyncssh.SSHClientConnection:
    given = {
        "username": server.user,
        "client_keys": [str(server.client_key)],
        "known_hosts": str(server.known_hosts),
        "config": None,
        "agent_path": None,
        "login_timeout": 30,
    }
    return await asyncssh.connect(server.host, server.port, **{**given, **options})


def spawn(command: list[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **(environment or {})})


async def test_a_forward_through_sshd_reaches_the_service(sshd: Sshd, echo: EchoServer) -> None:
    async with await login(sshd) as conn, await conn.forward_local_port("127.0.0.1", 0, echo.host, echo.port) as fwd:
        assert await exchange("127.0.0.1", fwd.get_port(), b"hello") == b"hello"
    await eventually(lambda: sshd.sessions() == 0)


async def test_sshd_refuses_a_key_until_it_is_authorized(sshd: Sshd, keys: Keys) -> None:
    other = keys.make("other")
    with pytest.raises(asyncssh.PermissionDenied):
        await login(sshd, client_keys=[str(other.private)])
    sshd.authorize(other)
    async with await login(sshd, client_keys=[str(other.private)]):
        pass


async def test_killing_the_sessions_ends_connections_and_keeps_the_listener(sshd: Sshd) -> None:
    first, second = await login(sshd), await login(sshd)
    assert sshd.sessions() == 2
    await sshd.kill_sessions()
    assert sshd.sessions() == 0
    await asyncio.wait_for(first.wait_closed(), 30)
    await asyncio.wait_for(second.wait_closed(), 30)
    async with await login(sshd):
        assert sshd.sessions() == 1


async def test_stopping_ends_every_process_and_starting_again_keeps_the_port(sshd: Sshd) -> None:
    conn = await login(sshd)
    processes = with_descendants([sshd.pid])
    assert len(processes) > 1
    await sshd.stop()
    assert not any(map(is_alive, processes))
    await asyncio.wait_for(conn.wait_closed(), 30)
    with pytest.raises(ConnectionRefusedError):
        await login(sshd)
    await sshd.start()
    async with await login(sshd):
        pass


async def test_a_paused_sshd_answers_after_it_is_resumed(sshd: Sshd) -> None:
    async with await login(sshd) as conn:
        sshd.pause()
        attempt = asyncio.create_task(conn.run("echo awake"))
        done, _ = await asyncio.wait([attempt], timeout=0.3)
        assert not done
        sshd.resume()
        assert (await asyncio.wait_for(attempt, 30)).stdout == "awake\n"


async def test_a_paused_sshd_can_be_stopped(sshd: Sshd) -> None:
    conn = await login(sshd)
    sshd.pause()
    await sshd.stop()
    await asyncio.wait_for(conn.wait_closed(), 30)


async def test_given_options_replace_the_defaults(tmp_path: Path, echo: EchoServer) -> None:
    async with Sshd(tmp_path, options={"AllowTcpForwarding": "no"}) as server, await login(server) as conn:
        with pytest.raises(asyncssh.ChannelOpenError):
            await conn.open_connection(echo.host, echo.port)


async def test_a_changed_host_key_is_not_the_known_one(sshd: Sshd) -> None:
    sshd.change_host_key()
    await sshd.restart()
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        await login(sshd)


async def test_a_bad_option_fails_the_start_and_shows_the_log(tmp_path: Path) -> None:
    server = Sshd(tmp_path, options={"NoSuchOption": "yes"})
    with pytest.raises(AssertionError, match="NoSuchOption"):
        await server.start()
    assert not server.running


async def test_servers_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "starts_sshd.py"
    script.write_text(
        textwrap.dedent("""
        import asyncio, sys
        from pathlib import Path
        from support.sshd import Sshd

        async def main():
            server = Sshd(Path(sys.argv[1]))
            await server.start()
            print(server.pid, flush=True)
            await asyncio.sleep(60)

        asyncio.run(main())
        """)
    )
    support = Path(__file__).parents[1]
    parent = spawn(
        [sys.executable, str(script), str(tmp_path / "server")], {"PYTHONPATH": str(support), "TMPDIR": str(tmp_path)}
    )
    assert parent.stdout is not None
    pid = int(await asyncio.to_thread(parent.stdout.readline))
    assert is_alive(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    await eventually(lambda: not is_alive(pid), message="the end of sshd after its parent was killed")


async def test_free_ports_are_never_given_out_twice() -> None:
    ports = [free_port() for _ in range(100)]
    assert len(set(ports)) == 100


async def test_a_timeout_names_the_condition() -> None:
    with pytest.raises(AssertionError, match="a blue moon"):
        await eventually(lambda: False, within=0.01, message="a blue moon")


async def test_a_condition_is_checked_again_at_the_deadline() -> None:
    answers = [False, True]

    def late() -> bool:
        time.sleep(0.05)  # longer than the timeout, like a stalled machine
        return answers.pop(0)

    await eventually(late, within=0.01)


async def test_the_list_of_children_shows_a_new_process() -> None:
    process = spawn(["sleep", "60"])
    assert process.pid in children(os.getpid())
    process.kill()
    process.communicate()
    assert process.pid not in children(os.getpid())


async def test_a_forward_through_dropbear_reaches_the_service(dropbear: Dropbear, echo: EchoServer) -> None:
    async with (
        await login(dropbear) as conn,
        await conn.forward_local_port("127.0.0.1", 0, echo.host, echo.port) as fwd,
    ):
        assert await exchange("127.0.0.1", fwd.get_port(), b"hello") == b"hello"
        assert dropbear.sessions() == 1


async def test_dropbear_does_not_change_the_real_ssh_directory(dropbear: Dropbear) -> None:
    real = Path.home() / ".ssh" / "authorized_keys"
    before = real.read_bytes() if real.exists() else None
    async with await login(dropbear):
        assert (real.read_bytes() if real.exists() else None) == before


async def test_dropbear_keeps_its_port_when_killed_and_started_again(dropbear: Dropbear) -> None:
    conn = await login(dropbear)
    await dropbear.kill_sessions()
    await asyncio.wait_for(conn.wait_closed(), 30)
    conn = await login(dropbear)
    await dropbear.restart()
    await asyncio.wait_for(conn.wait_closed(), 30)
    async with await login(dropbear):
        pass


async def test_psql_reads_from_postgres_through_a_forward(sshd: Sshd, postgres: Postgres) -> None:
    assert await psql(postgres.host, postgres.port, "select 6 * 7") == "42"
    async with (
        await login(sshd) as conn,
        await conn.forward_local_port("127.0.0.1", 0, postgres.host, postgres.port) as fwd,
        await conn.forward_local_port_to_path("127.0.0.1", 0, str(postgres.socket_path)) as over_unix,
    ):
        assert await psql("127.0.0.1", fwd.get_port(), "select 6 * 7") == "42"
        assert await psql("127.0.0.1", over_unix.get_port(), "select 6 * 7") == "42"


async def test_a_failed_statement_is_reported_with_its_message(postgres: Postgres) -> None:
    with pytest.raises(PsqlError, match="no_such_table"):
        await psql(postgres.host, postgres.port, "select * from no_such_table")


async def test_the_asyncssh_server_forwards_and_records(asyncssh_server: AsyncsshServer, echo: EchoServer) -> None:
    async with (
        await login(asyncssh_server) as conn,
        await conn.forward_local_port("127.0.0.1", 0, echo.host, echo.port) as fwd,
        await conn.forward_remote_port("127.0.0.1", 0, echo.host, echo.port) as back,
    ):
        assert await exchange("127.0.0.1", fwd.get_port()) == b"ping"
        assert await exchange("127.0.0.1", back.get_port()) == b"ping"
    assert Request("direct-tcpip", echo.address) in asyncssh_server.requests
    assert Request("tcpip-forward", "127.0.0.1:0") in asyncssh_server.requests


async def test_the_asyncssh_server_forwards_unix_sockets(asyncssh_server: AsyncsshServer, tmp_path: Path) -> None:
    path = tmp_path / "echo.sock"
    async with (
        EchoServer(path=path),
        await login(asyncssh_server) as conn,
        await conn.forward_local_port_to_path("127.0.0.1", 0, str(path)) as fwd,
    ):
        assert await exchange("127.0.0.1", fwd.get_port()) == b"ping"


async def test_the_asyncssh_server_accepts_only_its_password(tmp_path: Path) -> None:
    async with AsyncsshServer(tmp_path, password="right") as server:
        by_password = {"client_keys": None, "password": "right"}
        async with await login(server, **by_password):
            assert server.logins == 1
        with pytest.raises(asyncssh.PermissionDenied):
            await login(server, **{**by_password, "password": "wrong"})


async def test_channels_are_refused_and_left_unanswered_on_demand(
    asyncssh_server: AsyncsshServer, echo: EchoServer
) -> None:
    asyncssh_server.refuse_channel("db:5432", asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "not for you")
    asyncssh_server.never_answer_channel(echo.address)
    async with await login(asyncssh_server) as conn:
        with pytest.raises(asyncssh.ChannelOpenError, match="not for you") as refusal:
            await conn.open_connection("db", 5432)
        assert refusal.value.code == asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
        pending = asyncio.create_task(conn.open_connection(echo.host, echo.port))
        await eventually(lambda: Request("direct-tcpip", echo.address) in asyncssh_server.requests)
        done, _ = await asyncio.wait([pending], timeout=0.2)
        assert not done
        asyncssh_server.answer_normally()
        _, writer = await conn.open_connection(echo.host, echo.port)
        writer.close()
    with pytest.raises(asyncssh.ChannelOpenError):
        await pending


async def test_a_late_banner_runs_into_the_login_timeout(tmp_path: Path) -> None:
    async with AsyncsshServer(tmp_path, banner_delay=30) as server:
        with pytest.raises(asyncssh.ConnectionLost):
            await login(server, login_timeout=0.2)


async def test_the_asyncssh_server_drops_its_connections_and_keeps_its_port(asyncssh_server: AsyncsshServer) -> None:
    conn = await login(asyncssh_server)
    await asyncssh_server.stop()
    await asyncio.wait_for(conn.wait_closed(), 30)
    assert asyncssh_server.connections == 0
    await asyncssh_server.start()
    async with await login(asyncssh_server):
        assert asyncssh_server.connections == 1
