"""Fixtures: real servers, and a check that a test leaves no process and no task behind."""

import asyncio
import inspect
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from reconciler.ssh.internals.packet_path import PLAIN_VARIABLE
from reconciler.system.event_loop.readiness import new_event_loop
from support import container, processes
from support.asyncssh_server import AsyncsshServer
from support.dropbear import Dropbear, DropbearUnavailableError
from support.keys import Keys
from support.postgres import Postgres, PostgresMissingError
from support.services import EchoServer
from support.sshd import Sshd

_GRACE_SECONDS = 10.0


def pytest_configure(config: pytest.Config) -> None:
    container.keep_temporary_directory_to_ourselves()
    if container.is_entered() and config.option.basetemp is None:
        # The default name would contain `unknown` for the user's name, and tests look for that word.
        config.option.basetemp = container.temporary_root() / "pytest"
    # A shell starts background commands with SIGINT ignored, and child processes inherit that, so that no test could
    # end them with SIGINT. A handler, unlike SIG_IGN, is reset by exec.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests in the program's own event loop, and those marked `each_loop` in asyncio's, too."""
    own = {"own-loop": new_event_loop}
    return own if item.get_closest_marker("each_loop") is None else own | {"asyncio-loop": asyncio.new_event_loop}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """Create key pairs in the test's directory."""
    return Keys(tmp_path / "keys")


@pytest.fixture(params=["own packets", "plain packets"])
def is_plain(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run the test both ways: packets of channels pass below asyncssh, or through it."""
    if request.param == "plain packets":
        monkeypatch.setenv(PLAIN_VARIABLE, "1")
    return bool(request.param == "plain packets")


@pytest.fixture
async def sshd(tmp_path: Path) -> AsyncIterator[Sshd]:
    async with Sshd(tmp_path / "sshd") as server:
        yield server


@pytest.fixture
async def dropbear(tmp_path: Path) -> AsyncIterator[Dropbear]:
    server = Dropbear(tmp_path / "dropbear")
    try:
        await server.start()
    except DropbearUnavailableError as missing:
        pytest.skip(str(missing))
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture
async def asyncssh_server(tmp_path: Path) -> AsyncIterator[AsyncsshServer]:
    async with AsyncsshServer(tmp_path / "asyncssh") as server:
        yield server


@pytest.fixture
async def echo() -> AsyncIterator[EchoServer]:
    async with EchoServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    try:
        server = Postgres()
    except PostgresMissingError as missing:
        pytest.skip(str(missing))
    with server:
        yield server


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check for left-over processes. An autouse fixture ends last, after all other fixtures of the test."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("no_task_is_left_behind")
    before = set(processes.children(os.getpid()))
    yield
    deadline = time.monotonic() + _GRACE_SECONDS
    while left := set(processes.children(os.getpid())) - before - processes.session_scoped:
        if time.monotonic() > deadline:
            lines = [processes.command_line(pid) for pid in left]
            processes.send_signal(left, signal.SIGKILL)
            pytest.fail(f"the test left processes behind: {lines}")
        time.sleep(0.01)


@pytest.fixture
async def no_task_is_left_behind() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        # A task that is ending may need a few iterations of the loop.
        _, left = await asyncio.wait(left, timeout=_GRACE_SECONDS)
    assert not left, f"the test left tasks behind: {left}"
