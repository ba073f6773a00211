"""`tunnels run FILE... -- CMD...`: a program that runs beside the tunnels, for as long as it lasts.

In: the app, and the program with its arguments. Out: its exit code. Signals go on to it, as if we were not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Iterable, Iterator

from reconciler.cli.terminal.table import complain
from reconciler.core.spec import LocalTcp
from reconciler.core.status import TunnelStatus
from reconciler.report.control import WaitFailedError
from reconciler.runtime.app import App
from reconciler.runtime.commands import Commands
from reconciler.system.descriptors import with_given_limit

_NOT_UP, _NOT_FOUND, _NOT_EXECUTABLE = 1, 127, 126  # the last two as a shell says them
_KILLED = 128  # and the signal's number
_NOT_IN_A_NAME = re.compile(r"[^A-Z0-9]")


async def run_child(app: App, program: tuple[str, ...], within: float) -> int:
    """Converge, run the program, end with it."""
    running = asyncio.create_task(app.run(), name="tunnels")
    try:
        code = await _up(app, running, within)
        return code if code is not None else await _run(app, program)
    finally:
        app.end()
        app.end()
        await running


async def _up(app: App, running: asyncio.Task[int], within: float) -> int | None:
    """None once all tunnels are up; else the code to exit with."""
    waiting = asyncio.create_task(Commands(app).wait("", (), within))
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return running.result() or _NOT_UP
    try:
        waiting.result()
    except WaitFailedError as no:
        complain("error", no)
        return _NOT_UP
    return None


async def _run(app: App, program: tuple[str, ...]) -> int:
    judgement = app.status
    environ = {**app.config.environ, **variables(judgement.tunnels if judgement else ())}
    with _passing_on(app) as passing:  # before it starts: a signal that comes between is for the program too
        try:
            process = await asyncio.create_subprocess_exec(*with_given_limit(program, environ), env=environ)
        except OSError as error:
            complain("error", f"cannot run {program[0]}: {error.strerror}")
            return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
        passing.to(process)
        code = await process.wait()
    return code if code >= 0 else _KILLED - code


class _Passing:
    """Hands signals to the program, and those that came before it as soon as it is there."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._early: list[signal.Signals] = []

    def to(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        for number in self._early:
            self.send(number)

    def send(self, number: signal.Signals) -> None:
        if number == signal.SIGINT:
            return  # the terminal has sent it to the program too
        if self._process is None:
            self._early.append(number)
            return
        # Not `send_signal`: it looks whether the program has ended, and takes the exit code from who waits for it.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


@contextlib.contextmanager
def _passing_on(app: App) -> Iterator[_Passing]:
    """SIGTERM and SIGHUP are the program's. A terminal's Ctrl-C it has got already: we only wait for what it does."""
    passing = _Passing()
    app.shutdown.redirect_signals(passing.send)
    try:
        yield passing
    finally:
        app.shutdown.install_handlers()


def variables(tunnels: Iterable[TunnelStatus]) -> dict[str, str]:
    """TUNNEL_<TARGET>_<NAME>_HOST and _PORT of each tunnel that listens here on TCP, if its port is chosen."""
    made = {}
    for tunnel in tunnels:
        host, _, port = tunnel.bound.rpartition(":")
        if isinstance(tunnel.spec.listen, LocalTcp) and port.isdecimal():
            name = _NOT_IN_A_NAME.sub("_", f"{tunnel.spec.target}_{tunnel.spec.name}".upper())
            host = host.removeprefix("[").removesuffix("]")
            made[f"TUNNEL_{name}_HOST"] = _REACHED_BY.get(host, host)
            made[f"TUNNEL_{name}_PORT"] = port
    return made


# What listens everywhere is reached on loopback.
_REACHED_BY = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - names; nothing is bound here
