"""The Python API for programs without an event loop, and the pytest plugin: clients block the calling thread."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from reconciler import Options
from reconciler.blocking import ConfigError, TunnelsNotUpError, open_tunnels
from reconciler.core.observed import Phase
from support.services import EchoServer
from support.sshd import Sshd
from support.wait import free_port

ROOT = Path(__file__).parents[2]
_IN_TIME = 30.0


def content(sshd: Sshd, to: int, **fields: object) -> dict[str, object]:
    """Return the content of a file as a mapping."""
    tunnel = {"name": "echo", "type": "local", "localPort": 0, "remoteHost": "127.0.0.1", "remotePort": to}
    login = {"user": sshd.user, "privateKey": str(sshd.client_key), "knownHosts": str(sshd.known_hosts)}
    return {"targets": {"server": {"host": sshd.host, "port": sshd.port, **login, **fields, "tunnels": [tunnel]}}}


def exchange(port: int) -> bytes:
    """Send and receive with a blocking socket."""
    with socket.create_connection(("127.0.0.1", port), timeout=_IN_TIME) as client:
        client.sendall(b"ping")
        return client.recv(4)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "tunnels"]


async def test_a_program_without_a_loop_uses_tunnels_with_blocking_clients(sshd: Sshd, echo: EchoServer) -> None:
    def program() -> int:
        with open_tunnels(content(sshd, echo.port)) as tunnels:
            port = tunnels.port("server/echo")
            assert [exchange(port) for _ in range(3)] == [b"ping"] * 3
            assert [one.id for one in tunnels.all()] == ["server/echo"]
            assert tunnels["server/echo"].phase is Phase.UP
            with pytest.raises(KeyError):
                tunnels["server/other"]
            tunnels.until_up(_IN_TIME)
        return port

    port = await asyncio.to_thread(program)
    with pytest.raises(ConnectionRefusedError):
        exchange(port)
    assert not threads()


async def test_errors_reach_the_caller_and_end_the_thread(sshd: Sshd, echo: EchoServer) -> None:
    def program(**fields: object) -> None:
        with open_tunnels(content(sshd, echo.port, **fields), within=1.0):
            raise ArithmeticError

    with pytest.raises(ConfigError, match="did you mean"):
        await asyncio.to_thread(program, usr="x")
    with pytest.raises(TunnelsNotUpError, match="server/echo: down"):
        await asyncio.to_thread(program, port=free_port())
    with pytest.raises(ArithmeticError):
        await asyncio.to_thread(program)
    assert not threads()


_INTERRUPTED = """
import os, signal, socket, threading
from reconciler.blocking import open_tunnels
silent = socket.create_server(("127.0.0.1", 0))  # accepts, and never says its SSH version
def interrupt():
    silent.accept()
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
tunnel = {"name": "a", "local": "0:a:1"}
host = {"host": "127.0.0.1", "port": silent.getsockname()[1], "user": "u", "password": "x"}
try:
    with open_tunnels({"targets": {"silent": {**host, "tunnels": [tunnel]}}}, within=600):
        pass
except KeyboardInterrupt:
    assert "tunnels" not in [thread.name for thread in threading.enumerate()]
    print("interrupted")
"""


async def test_ctrl_c_ends_the_wait_for_a_server_that_is_silent() -> None:
    command = [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", _INTERRUPTED]
    done = await asyncio.to_thread(
        lambda: subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


async def test_a_wait_after_the_block_is_an_error(sshd: Sshd, echo: EchoServer) -> None:
    def program() -> None:
        with open_tunnels(content(sshd, echo.port)) as tunnels:
            pass
        with pytest.raises(RuntimeError, match="block has ended"):
            tunnels.until_up(_IN_TIME)

    await asyncio.to_thread(program)


async def test_blocks_leave_no_thread_behind(sshd: Sshd, echo: EchoServer) -> None:
    def program(times: int) -> None:
        for _ in range(times):
            with open_tunnels(content(sshd, echo.port)) as tunnels:
                tunnels.apply({"targets": {}})

    await asyncio.to_thread(program, 5)  # threads that all blocks share
    before = threading.active_count()
    await asyncio.to_thread(program, 5)
    assert threading.active_count() <= before + 2, "an executor may start another one of its threads"


async def test_a_proxy_command_runs_for_tunnels_in_a_thread(sshd: Sshd, echo: EchoServer) -> None:
    copy = "exec 3<>/dev/tcp/%h/%p; cat <&3 & exec cat >&3"

    def program() -> None:
        document = content(sshd, echo.port, proxyCommand=["bash", "-c", copy])
        with open_tunnels(document, options=Options(allow_commands=True)) as tunnels:
            assert exchange(tunnels.port("server/echo")) == b"ping"

    await asyncio.to_thread(program)


async def test_two_blocks_are_open_at_the_same_time(sshd: Sshd, echo: EchoServer) -> None:
    def program() -> None:
        with open_tunnels(content(sshd, echo.port)) as one, open_tunnels(content(sshd, echo.port)) as other:
            assert one.port("server/echo") != other.port("server/echo")
            assert exchange(one.port("server/echo")) == exchange(other.port("server/echo")) == b"ping"

    await asyncio.to_thread(program)


# --- the fixture ------------------------------------------------------------------------------------------------------

_TEST = """
import socket

def test_the_service_answers(tunnels):
    with socket.create_connection(("127.0.0.1", tunnels.port("server/echo")), timeout=30) as client:
        client.sendall(b"ping")
        assert client.recv(4) == b"ping"

def test_the_tunnels_are_still_open(tunnels):
    test_the_service_answers(tunnels)
"""


async def pytest_run(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with this plugin alone: others take longer to start than the test."""
    environ = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "reconciler.pytest_tunnels", *arguments]
    return await asyncio.to_thread(
        lambda: subprocess.run(
            command, cwd=directory, env=environ, capture_output=True, text=True, check=False, timeout=60
        )
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "test_service.py").write_text(_TEST)
    return directory


@pytest.mark.parametrize("way", ["option", "ini file", "fixture"])
async def test_the_fixture_opens_the_tunnels_of_a_project(
    sshd: Sshd, echo: EchoServer, project: Path, way: str
) -> None:
    (project / "tunnels.yaml").write_text(json.dumps(content(sshd, echo.port)))
    (project / "pytest.ini").write_text("[pytest]\n" + "tunnels_config = tunnels.yaml\n" * (way == "ini file"))
    if way == "fixture":
        (project / "conftest.py").write_text(
            "import json, pathlib, pytest\n"
            "@pytest.fixture(scope='session')\n"
            "def tunnels_config():\n"
            "    return json.loads(pathlib.Path('tunnels.yaml').read_text())\n"
        )
    done = await pytest_run(project, *(["--tunnels-config", "tunnels.yaml"] if way == "option" else []))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


async def test_a_test_has_tunnels_of_its_own(sshd: Sshd, echo: EchoServer, project: Path) -> None:
    (project / "tunnels.yaml").write_text(json.dumps(content(sshd, echo.port)))
    (project / "test_service.py").write_text(
        "def test_one(tunnels, function_tunnels):\n"
        "    assert tunnels.port('server/echo') != function_tunnels.port('server/echo')\n"
        "    function_tunnels.pause('server/echo')\n"
        "def test_other(tunnels, function_tunnels):\n"
        "    assert tunnels['server/echo'].is_up and function_tunnels['server/echo'].is_up\n"
    )
    done = await pytest_run(project, "--tunnels-config", "tunnels.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


async def test_the_report_of_a_failed_test_has_the_state_of_the_tunnels(
    sshd: Sshd, echo: EchoServer, project: Path
) -> None:
    (project / "tunnels.yaml").write_text(json.dumps(content(sshd, echo.port)))
    (project / "test_service.py").write_text(
        "def test_one(tunnels):\n    tunnels.restart('server/echo')\n"
        "def test_two(tunnels):\n    tunnels.pause('server/echo')\n    assert tunnels.port('server/echo') == 1\n"
        "def test_three(tunnels):\n    tunnels.resume('server/echo')\n    raise ArithmeticError\n"
        "def test_four(tunnels):\n    raise ArithmeticError\n"
    )
    done = await pytest_run(project, "--tunnels-config", "tunnels.yaml")
    assert done.returncode == 1, done.stdout + done.stderr
    _, one, two, three = done.stdout.split("____ test_")
    assert "tunnels: not up ---" in one
    assert "server/echo: off: paused" in one
    assert "tunnels: events of this test ---" in one
    assert "server/echo: paused: requested by the program" in one
    assert "restarted" not in one, "that was in the test before"
    assert "server/echo: resumed: requested by the program" in two
    assert "tunnels: " not in three, "nothing happened, and all are up"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no tunnels file: give --tunnels-config FILE"),
        (["--tunnels-config", "missing.yaml"], "missing.yaml: cannot be read: no such file"),
    ],
)
async def test_the_fixture_says_what_is_wrong_with_the_file(project: Path, arguments: list[str], message: str) -> None:
    done = await pytest_run(project, *arguments)
    assert done.returncode == 1
    assert message in done.stdout
    assert "Traceback" not in done.stdout
    assert "pytest_tunnels.py" not in done.stdout


async def test_other_tests_do_not_load_the_program(project: Path) -> None:
    (project / "test_service.py").write_text(
        "import sys\ndef test_light():\n    assert 'asyncssh' not in sys.modules\n"
    )
    done = await pytest_run(project)
    assert done.returncode == 0, done.stdout
