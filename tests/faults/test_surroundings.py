"""What is around the process: a log that nobody reads, files without end, signals at any moment, a container."""

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
# A proxy command that needs nothing but Python, and leaves a child behind.
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
    """`tunnels run` with these streams; killed when the block is left, if it still runs."""
    command = tied_to_parent([sys.executable, "-m", "reconciler", "run", *NOWHERE, *map(str, arguments)])
    # Unbuffered, Python would have nothing left to write at its end.
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
    """Whoever writes there waits: it is full, and nobody reads."""
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


async def test_a_log_that_nobody_reads_holds_nobody_up(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, config = free_port(), tmp_path / "tunnels.yaml"
    config.write_text(file(sshd, local("echo", port, echo.port, audit="true")))
    with full_pipe() as writes:
        async with run(config, stderr=writes) as process:
            for _ in range(3):
                await answers(port)
            process.terminate()
            assert await exit_code(process) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full here")
async def test_a_log_on_a_full_disk_is_no_failure(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
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
async def test_a_file_without_end_does_not_hold_up_the_end(number: signal.Signals, tmp_path: Path) -> None:
    pipe = tmp_path / "tunnels.yaml"
    os.mkfifo(pipe)
    async with run(pipe) as process:
        with await asyncio.to_thread(pipe.open, "wb"):  # it is there, and reads
            process.send_signal(number)
            assert await exit_code(process) == 0


async def test_standard_input_without_end_does_not_either() -> None:
    reads, writes = os.pipe()
    try:
        # What it has read of a pipe is gone from it: F_SETPIPE_SZ makes room for no more than a page.
        room = fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, 4096) if hasattr(fcntl, "F_SETPIPE_SZ") else 0
        if not room:
            pytest.skip("a pipe's size cannot be set here")
        async with run("-", stdin=reads) as process:
            await asyncio.to_thread(os.write, writes, bytes(room + 1))  # returns when some of it was read
            process.terminate()
            assert await exit_code(process) == 0
    finally:
        os.close(reads)
        os.close(writes)


async def without_stdin(*arguments: str) -> tuple[int | None, bytes]:
    """Exit code and stderr of `tunnels`, started with its standard input closed."""
    command = f'exec {sys.executable} -m reconciler "$@" <&-'
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", command, "sh", *arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, said = await asyncio.wait_for(process.communicate(), WITHIN)
    return process.returncode, said


async def test_without_standard_input_there_is_nothing_to_import() -> None:
    code, said = await without_stdin("import")
    assert (code, said.count(b"\n")) == (1, 1)
    assert b"nothing to carry over" in said


async def test_without_standard_input_there_is_nothing_to_run_either() -> None:
    code, said = await without_stdin("run", *NOWHERE, "-")
    assert (code, said.count(b"\n")) == (2, 1)
    assert b"<stdin>: cannot be read: standard input is closed" in said


# --- signals ----------------------------------------------------------------------------------------------------


async def test_a_reload_that_is_asked_for_too_early_does_not_end_it(tmp_path: Path) -> None:
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


async def test_signals_that_come_after_its_program_has_ended_do_not_take_the_exit_code(
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
                # Not send_signal: it looks whether the process has ended, and takes the code from who waits for it.
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
    """Nobody else waits for it, and takes its number out of the world."""
    command = tied_to_parent([sys.executable, *arguments])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def hail(pid: int) -> None:
    """Nothing but SIGTERM for the process, until it has ended; who waits for it gets its exit code."""
    until = time.monotonic() + WITHIN
    while time.monotonic() < until and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
        os.kill(pid, signal.SIGTERM)


def test_in_a_hail_of_signals_none_stops_it_and_none_takes_the_exit_code() -> None:
    for _ in range(10):  # asyncio's own handlers came through four times in ten
        with python("-c", ENDS_WHEN_ASKED) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            hail(process.pid)
            assert process.poll() == 5


async def test_nor_does_one_hurt_the_whole_program(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
    port, config = free_port(), tmp_path / "tunnels.yaml"
    config.write_text(file(sshd, local("echo", port, echo.port)))
    with python("-m", "reconciler", "run", *NOWHERE, str(config)) as process:
        await answers(port)
        await asyncio.to_thread(hail, process.pid)
        assert process.poll() == 0


# --- a container ------------------------------------------------------------------------------------------------


def as_first_process(*command: str) -> list[str]:
    """The command as process 1 of its own world."""
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0 or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root can start a first process")
    return [*alone, *command]


async def test_sigterm_ends_the_first_process_of_a_container_while_it_starts_too(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(1, signal.SIGTERM)\nraise SystemExit('unheard')\n")
    process = await asyncio.create_subprocess_exec(
        *as_first_process(sys.executable, "-m", "reconciler", "run", "tunnels.yaml"),
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
    )
    assert await exit_code(process) == 143


def by_proxy_command(sshd: Sshd, echo: EchoServer, port: int, directory: Path) -> Path:
    """The file of a tunnel whose server is reached by a program that leaves a child behind."""
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


async def test_what_a_proxy_command_leaves_behind_is_buried(sshd: Sshd, echo: EchoServer, tmp_path: Path) -> None:
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


async def test_who_speaks_first_is_heard_where_asyncio_reads_what_it_was_told_not_to(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of Python 3.11.2 does, which is Debian 12's: a transport that is paused when it is made is read."""

    def add_reader(transport: object, descriptor: int, callback: object, *arguments: object) -> None:
        transport._loop._add_reader(descriptor, callback, *arguments)  # type: ignore[attr-defined]

    monkeypatch.setattr(selector_events._SelectorTransport, "_add_reader", add_reader, raising=False)  # type: ignore[attr-defined]
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port))) as tunnels:
        await tunnels.all_up()
        sshd.pause()  # the channel takes a while: what is said meanwhile must not be lost
        try:
            async with connected("127.0.0.1", port) as (reader, writer):
                writer.write(b"first")
                await eventually(lambda: any(tunnels.engine.actuator.connections()), message="it has come")
                await asyncio.sleep(0.05)  # turns of the loop, in which it may be read
                sshd.resume()
                assert await asyncio.wait_for(reader.readexactly(5), WITHIN) == b"first"
        finally:
            sshd.resume()
