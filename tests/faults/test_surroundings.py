"""The surroundings of the process: an unread log, endless files, signals at any moment, a container."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from asyncio import selector_events
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.processes import children, tied_to_parent
from support.program import answers, program
from support.services import EchoServer, connected
from support.sshd import Sshd
from support.tunnels import file, local, running
from support.wait import WITHIN, eventually, free_port

NOWHERE = ("--listen", "none", "--control", "none")
# A proxy command that needs only Python, and leaves an orphan.
LEAVES_A_CHILD = """
import os, socket, subprocess, sys, threading
subprocess.Popen(["sleep", "1000"])
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536):
        sock.sendall(data)
threading.Thread(target=up, daemon=True).start()
while data := sock.recv(65536):
    os.write(1, data)
"""


@contextlib.asynccontextmanager
async def run(
    *arguments: object, stdin: int | None = None, stdout: int | None = None, stderr: int | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `tunnels run` with these streams. Kill it at the end of the block if it still runs."""
    command = tied_to_parent([sys.executable, "-m", "reconciler", "run", *NOWHERE, *map(str, arguments)])
    # Not unbuffered: Python must have output left to write when it exits.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = await asyncio.create_subprocess_exec(*command, stdin=stdin, stdout=stdout, stderr=stderr, env=environ)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def exit_code(process: asyncio.subprocess.Process) -> int:
    return await asyncio.wait_for(process.wait(), WITHIN)


# --- what it writes and reads -----------------------------------------------------------------------------------


@contextlib.contextmanager
def full_pipe() -> Iterator[int]:
    """A pipe that is full and has no reader: a write blocks."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writes, bytes(4096))
    os.set_blocking(writes, True)
    try:
        yield writes
    finally:
        os.close(reads)
        os.close(writes)


async def test_an_unread_log_pipe_delays_no_client(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, config = free_port(), tmp_path / "tunnels.yaml"
    config.write_text(file(sshd, local("echo", port, echo.port, audit="true")))
    with full_pipe() as writes:
        async with run(config, stderr=writes) as process:
            for _ in range(3):
                await answers(port)
            process.terminate()
            assert await exit_code(process) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full here")
async def test_a_log_on_a_full_disk_does_not_stop_the_program(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, config = free_port(), tmp_path / "tunnels.yaml"
    config.write_text(file(sshd, local("echo", port, echo.port)))
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        async with run(config, stdout=full, stderr=full) as process:
            await answers(port)
            process.terminate()
            assert await exit_code(process) == 0
    finally:
        os.close(full)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_endless_file_does_not_delay_the_exit(number: signal.Signals, tmp_path: Path) -> None:
    pipe = tmp_path / "tunnels.yaml"
    os.mkfifo(pipe)
    async with run(pipe) as process:
        with await asyncio.to_thread(pipe.open, "wb"):  # the process has started and reads
            process.send_signal(number)
            assert await exit_code(process) == 0


async def test_endless_standard_input_does_not_delay_the_exit() -> None:
    reads, writes = os.pipe()
    try:
        # A small pipe, so that the write returns only when the process has read some of it.
        room = fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4096) if hasattr(fcntl, "F_SETPIPE_SZ") else 0
        if not room:
            pytest.skip("a pipe's size cannot be set here")
        async with run("-", stdin=reads) as process:
            await asyncio.to_thread(os.write, writes, bytes(room + 1))  # returns when some of it has been read
            process.terminate()
            assert await exit_code(process) == 0
    finally:
        os.close(reads)
        os.close(writes)


async def without_stdin(*arguments: str) -> tuple[int | None, bytes]:
    """Return exit code and stderr of `tunnels`, started with its standard input closed."""
    command = f'exec {sys.executable} -m reconciler "$@" <&-'
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", command, "sh", *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), WITHIN)
    return process.returncode, said


async def test_import_without_standard_input_is_an_error() -> None:
    code, said = await without_stdin("import")
    assert (code, said.count(b"\n")) == (1, 1)
    assert b"no input" in said


async def test_run_without_standard_input_is_an_error() -> None:
    code, said = await without_stdin("run", *NOWHERE, "-")
    assert (code, said.count(b"\n")) == (2, 1)
    assert b"<stdin>: cannot be read: standard input is closed" in said


# --- signals ----------------------------------------------------------------------------------------------------


async def test_an_early_sighup_does_not_end_the_process(tmp_path: Path) -> None:
    (tmp_path / "asyncssh.py").write_text(
        "import os, signal, sys\nos.kill(os.getpid(), signal.SIGHUP)\nsys.exit('it goes on')\n"
    )
    (tmp_path / "tunnels.yaml").write_text("targets: {}\n")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reconciler", "run", str(tmp_path / "tunnels.yaml")),
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
        stderr=subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), WITHIN)
    assert (process.returncode, said) == (1, b"it goes on\n")


async def test_signals_after_the_child_has_ended_keep_its_exit_code(
    sshd: Sshd, echo: EchoServer, tmp_path: Path
) -> None:
    (tmp_path / "tunnels.yaml").write_text(file(sshd, local("echo", free_port(), echo.port)))
    script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.02; done"
    command = tmp_path / "tunnels.yaml", "--", "sh", "-c", script
    async with run(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), WITHIN) == b"ready\n"
        ending = asyncio.create_task(process.wait())
        while not ending.done():
            with contextlib.suppress(ProcessLookupError):
                # Not send_signal: it polls the process, and so takes the exit code from the waiting thread.
                os.kill(process.pid, signal.SIGTERM)
            await asyncio.wait({ending}, timeout=0.001)
        assert ending.result() == 5


ENDS_WHEN_ASKED = """
import asyncio
from reconciler.runtime.shutdown import Shutdown
async def main():
    shutdown = Shutdown(lambda: None)
    with shutdown.handle_signals():
        print("ready", flush=True)
        await shutdown.requested()
asyncio.run(main())
raise SystemExit(5)
"""


@contextlib.contextmanager
def python(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that is not reaped before its exit code is read here."""
    command = tied_to_parent([sys.executable, *arguments])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def send_sigterm_until_it_ends(pid: int) -> None:
    """Send SIGTERM to the process until it has ended."""
    until = time.monotonic() + WITHIN
    while time.monotonic() < until and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
        os.kill(pid, signal.SIGTERM)


def test_many_signals_neither_kill_it_nor_change_the_exit_code() -> None:
    for _ in range(10):  # with asyncio's own handlers this failed four times in ten
        with python("-c", ENDS_WHEN_ASKED) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            send_sigterm_until_it_ends(process.pid)
            assert process.poll() == 5


async def test_many_signals_do_not_hurt_the_whole_program(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, config = free_port(), tmp_path / "tunnels.yaml"
    config.write_text(file(sshd, local("echo", port, echo.port)))
    with python("-m", "reconciler", "run", *NOWHERE, str(config)) as process:
        await answers(port)
        await asyncio.to_thread(send_sigterm_until_it_ends, process.pid)
        assert process.poll() == 0


# --- a container ------------------------------------------------------------------------------------------------


def as_first_process(*command: str) -> list[str]:
    """Return the command as process 1 of its own PID namespace."""
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0 or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root can start a first process")
    return [*alone, *command]


async def test_sigterm_ends_process_1_of_a_container_also_while_it_starts(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(1, signal.SIGTERM)\nraise SystemExit('unheard')\n")
    process = await asyncio.create_subprocess_exec(
        *as_first_process(sys.executable, "-m", "reconciler", "run", "tunnels.yaml"),
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
    )
    assert await exit_code(process) == 143


def by_proxy_command(sshd: Sshd, echo: EchoServer, port: int, directory: Path) -> Path:
    """Write the file of a tunnel with a proxy command that leaves an orphan."""
    relay, config = directory / "relay.py", directory / "tunnels.yaml"
    relay.write_text(LEAVES_A_CHILD)
    command = f"[{sys.executable}, {relay}, '%h', '%p']"
    config.write_text(file(sshd, local("echo", port, echo.port), proxyCommand=command))
    return config


async def test_a_proxy_command_carries_clients(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    async with program(by_proxy_command(sshd, echo, port, tmp_path), "--allow-commands") as tunnels:
        await answers(port)
        assert await tunnels.end() == 0
        assert "Traceback" not in tunnels.log_text()


async def test_orphans_of_a_proxy_command_are_reaped(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port = free_port()
    config = by_proxy_command(sshd, echo, port, tmp_path)
    async with program(config, "--allow-commands", through=as_first_process()) as tunnels:
        await answers(port)
        [first] = children(tunnels.pid)

        def zombies() -> int:
            stats = (Path(f"/proc/{pid}/stat").read_text() for pid in child_ids(first))
            return sum(stat.rpartition(")")[2].split()[0] == "Z" for stat in stats)

        for _ in range(3):
            await sshd.kill_sessions()
            await answers(port)
        await eventually(lambda: zombies() == 0, message="no zombie")
        os.kill(first, signal.SIGTERM)
        assert await tunnels.ended() == 0


def child_ids(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


# --- another Python ---------------------------------------------------------------------------------------------


async def test_early_bytes_are_kept_where_asyncio_reads_a_paused_transport(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.11.2 (Debian 12) reads a transport that was paused when it was created."""

    def add_reader(transport: object, descriptor: int, callback: object, *arguments: object) -> None:
        transport._loop._add_reader(descriptor, callback, *arguments)  # type: ignore[attr-defined]

    monkeypatch.setattr(selector_events._SelectorTransport, "_add_reader", add_reader, raising=False)  # type: ignore[attr-defined]
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port))) as tunnels:
        await tunnels.all_up()
        sshd.pause()  # the channel opens slowly: bytes sent meanwhile must not be lost
        try:
            async with connected("127.0.0.1", port) as (reader, writer):
                writer.write(b"first")
                await eventually(lambda: any(tunnels.engine.actuator.connections()), message="it has come")
                await asyncio.sleep(0.05)  # iterations of the event loop, which may read the transport
                sshd.resume()
                assert await asyncio.wait_for(reader.readexactly(5), WITHIN) == b"first"
        finally:
            sshd.resume()
