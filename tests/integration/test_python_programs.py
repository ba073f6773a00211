"""Whole Python programs that use the API: type checks, imports, Ctrl-C, and child processes made by fork."""

from __future__ import annotations

import asyncio
import copy
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import reconciler
from reconciler import TunnelsError, api, blocking
from reconciler.config.problem import ErrorCode
from support.services import EchoServer
from support.sshd import Sshd
from support.tunnels import file, local

ROOT = Path(__file__).parents[2]
# Sockets that are open at the end, and fork in a process with threads, of which newer versions of Python warn.
_IGNORED = ("-W", "ignore::ResourceWarning", "-W", "ignore:This process:DeprecationWarning")


async def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program to its end."""
    command = [sys.executable, "-W", "error", *_IGNORED, "-c", code, *arguments]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    return await asyncio.to_thread(
        lambda: subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=100)
    )


async def test_a_program_passes_the_strict_checks_of_mypy(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text((Path(__file__).parent / "typed_program.py").read_text())
    command = [sys.executable, "-m", "mypy", "--strict", f"--cache-dir={tmp_path}", program.name]
    done = await asyncio.to_thread(
        lambda: subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert (Path(reconciler.__file__).parent / "py.typed").exists()


async def test_the_package_is_cheap_to_import() -> None:
    done = await run(
        "import sys, reconciler\n"
        "print(sorted(name for name in sys.modules if name.startswith(('reconciler', 'asyncio', 'asyncssh'))))\n"
        "assert 'open_tunnels' in dir(reconciler)\n"
        "assert not hasattr(reconciler, 'nothing')\n"
        "from reconciler import *\n"
        "print(open_tunnels.__module__, blocking.__name__)\n"
    )
    assert done.stdout == "['reconciler']\nreconciler.api.tunnels reconciler.blocking\n", done.stderr


def test_the_package_has_the_names_of_its_api() -> None:
    assert sorted(reconciler.__all__) == sorted([*api.__all__, "__version__", "blocking"])
    assert all(getattr(reconciler, name) is getattr(api, name) for name in api.__all__)


def test_all_exceptions_have_one_base() -> None:
    public = [getattr(module, name) for module in (api, blocking) for name in module.__all__]
    errors = [one for one in public if inspect.isclass(one) and issubclass(one, Exception)]
    assert len(errors) >= 7
    assert all(issubclass(error, TunnelsError) for error in errors)


def test_both_forms_have_the_same_calls_and_parameters() -> None:
    for name, call in vars(api.Tunnels).items():
        if inspect.isfunction(call) and name != "__init__":
            twin = inspect.signature(getattr(blocking.BlockingTunnels, name))
            assert twin.parameters == inspect.signature(call).parameters, name
    assert inspect.signature(api.open_tunnels).parameters == inspect.signature(blocking.open_tunnels).parameters


_INTERRUPTED = """
import os, signal, sys, threading
from reconciler.blocking import open_tunnels
silent = __import__("socket").create_server(("127.0.0.1", 0))  # accepts, and never says its SSH version
def interrupt():
    silent.accept()
    os.kill(os.getpid(), signal.SIGINT)
target = {"host": "127.0.0.1", "port": silent.getsockname()[1], "user": "u", "password": "x"}
slow = {"targets": {"silent": {**target, "tunnels": [{"name": "a", "local": "0:a:1"}]}}}
with open_tunnels({"targets": {}}) as tunnels:
    threading.Thread(target=interrupt).start()
    try:
        CALL
    except KeyboardInterrupt:
        print("interrupted", [one.id for one in tunnels.all()])
    tunnels.apply({"targets": {}})
assert "tunnels" not in [thread.name for thread in threading.enumerate()]
"""


_INTERRUPTED_LOOP = """
import asyncio, os, signal, socket, sys, threading
from reconciler import BlockEndedError, open_tunnels
async def main():
    global tunnels
    async with open_tunnels("targets: {}") as tunnels:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        async for event in tunnels.events():
            pass
try:
    asyncio.run(main())
except KeyboardInterrupt:
    try:
        tunnels.all()
    except BlockEndedError:
        print("closed")
"""


async def test_ctrl_c_closes_the_tunnels_of_an_event_loop() -> None:
    done = await run(_INTERRUPTED_LOOP)
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")


def test_exceptions_and_results_cross_processes() -> None:
    problem = reconciler.Problem("f", 1, 2, "a.b", "wrong", ErrorCode.VALUE)
    state = reconciler.TunnelState(
        *("a/b", "a", "b", "local", reconciler.Phase.DOWN, reconciler.Reason.REFUSED, "no", False),
        *("127.0.0.1:1", 1, False, "db:1"),
    )
    for value in (
        reconciler.ConfigError(problem, problem),
        reconciler.TunnelsNotUpError("not up", (state,)),
        reconciler.BlockEndedError(),
        reconciler.NoSuchTunnelError("no tunnel"),
    ):
        other = copy.copy(value)  # as pickle does it
        assert (type(other), str(other), vars(other)) == (type(value), str(value), vars(value))
    applied = reconciler.Applied(rejected=(problem,))
    assert copy.deepcopy(applied) == applied
    assert len({applied, state, reconciler.ChangedFields("a", ())}) == 3, "they can be hashed"


@pytest.mark.parametrize(
    "call",
    [
        "tunnels.apply(slow, within=3600)",
        "tunnels.apply(slow, within=0.2), tunnels.until_up(3600)",
        "tunnels.apply(slow, within=0.2), list(tunnels.events())",
    ],
)
async def test_ctrl_c_ends_a_call_and_the_block_goes_on(call: str) -> None:
    done = await run(_INTERRUPTED.replace("CALL", call))
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted ['silent/a']\n", "")


_FORKED = """
import os, socket, sys
from reconciler.blocking import BlockEndedError, WrongContextError, open_tunnels

def answers(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"ping")
        return client.recv(4) == b"ping"

def in_a_child(tunnels):
    assert answers(tunnels.port("server/echo"))
    for call in (tunnels.until_up, tunnels.events, lambda: tunnels.restart("server")):
        try:
            call()
        except WrongContextError as error:
            assert "belongs to the parent process" in str(error)
        else:
            os._exit(1)

def child_of(tunnels):
    child = os.fork()
    if not child:
        in_a_child(tunnels)
        raise ArithmeticError  # the child leaves the block of its parent
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

try:
    with open_tunnels(sys.argv[1]) as tunnels:
        child_of(tunnels)
        assert answers(tunnels.port("server/echo"))
        tunnels.restart("server")
        assert answers(tunnels.port("server/echo"))
        tunnels.apply("targets: {}")
except ArithmeticError:
    with open_tunnels(sys.argv[1]) as own:
        assert answers(own.port("server/echo"))
        own.restart("server")
    os._exit(7)
print("parent")
"""


async def test_a_child_process_leaves_the_tunnels_of_its_parent_alone(sshd: Sshd, echo: EchoServer) -> None:
    done = await run(_FORKED, file(sshd, local("echo", 0, echo.port)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "parent\n", "")


_POOL = """
import multiprocessing, os, sys
from reconciler.blocking import open_tunnels
import socket

def query(port):
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"ping")
        return client.recv(4).decode()

if __name__ == "__main__":
    with open_tunnels(sys.argv[1]) as tunnels:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(pool.map(query, [tunnels.port("server/echo")] * 4))
            tunnels.restart("server")
            print(pool.map(query, [tunnels.port("server/echo")] * 4))
"""


async def test_a_pool_of_processes_uses_the_tunnels(sshd: Sshd, echo: EchoServer) -> None:
    done = await run(_POOL, file(sshd, local("echo", 0, echo.port)))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{['ping'] * 4}\n" * 2


_UNREADABLE = """
import os, sys, threading
from reconciler.blocking import ReadTimeoutError, open_tunnels
os.mkfifo(sys.argv[1])
with open_tunnels("targets: {}") as tunnels:
    try:
        tunnels.apply(sys.argv[1], within=0.2)  # a pipe without a writer
    except ReadTimeoutError as error:
        print(error)
"""


async def test_a_configuration_that_cannot_be_read_ends_the_call_in_time(tmp_path: Path) -> None:
    done = await run(_UNREADABLE, str(tmp_path / "pipe"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the configuration was not read within 0.2 s, and nothing was changed: give it more time\n"


_LEFT_OPEN = """
import asyncio, sys
import reconciler
async def main():
    global manager
    manager = reconciler.open_tunnels(sys.argv[1])
    tunnels = await manager.__aenter__()
    print(tunnels["server/echo"])
asyncio.run(main())
manager = reconciler.blocking.open_tunnels(sys.argv[1])
print(manager.__enter__()["server/echo"])
"""


async def test_a_program_may_end_inside_a_block(sshd: Sshd, echo: EchoServer) -> None:
    done = await run(_LEFT_OPEN, file(sshd, local("echo", 0, echo.port)))
    assert (done.returncode, done.stdout) == (0, "server/echo: up\n" * 2), done.stderr
    assert "Traceback" not in done.stderr
