"""`tunnels run FILE... -- CMD...`: run a program while the tunnels are up, and end with it.

Input: the app, and the program with its arguments. Output: the program's exit code. Signals are forwarded to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Iterable, Iterator

from reconciler.cli.terminal.table import print_message
from reconciler.core.spec import LocalTcp
from reconciler.core.status import TunnelStatus
from reconciler.report.control import WaitFailedError
from reconciler.runtime.app import App
from reconciler.runtime.commands import Commands
from reconciler.system.descriptors import with_given_limit
from reconciler.system.terminal_line import terminal_line

_NOT_UP, _NOT_FOUND, _NOT_EXECUTABLE = 1, 127, 126  # the last two as in shells
_KILLED = 128  # plus the number of the signal
_NOT_IN_A_NAME = re.compile(r"[^A-Z0-9]")


async def run_child(app: App, program: tuple[str, ...], within: float) -> int:
    """Bring the tunnels up, run the program, stop the tunnels. Return the exit code of the program."""
    running = asyncio.create_task(app.run(), name="tunnels")
    try:
        code = await _wait_until_up(app, running, within)
        return code if code is not None else await _run(app, program)
    finally:
        app.end()
        app.end()  # the second call: do not wait for clients, because the program has ended
        await running


async def _wait_until_up(app: App, running: asyncio.Task[int], within: float) -> int | None:
    """Return None once all tunnels are up, else the exit code."""
    with terminal_line() as line:
        waiting = asyncio.create_task(Commands(app).wait("", (), within, line.show))
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not waiting.done():
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return running.result() or _NOT_UP
    try:
        waiting.result()
    except WaitFailedError as error:
        print_message("error", error)
        return _NOT_UP
    return None


async def _run(app: App, program: tuple[str, ...]) -> int:
    status = app.engine.status
    environ = {**app.config.environ, **variables(status.tunnels if status else ())}
    with _forwarding_signals(app) as forwarder:  # before the program starts, so that it gets early signals too
        try:
            process = await asyncio.create_subprocess_exec(*with_given_limit(program, environ), env=environ)
        except OSError as error:
            print_message("error", f"cannot run {program[0]}: {error.strerror}")
            return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
        forwarder.attach(process)
        code = await process.wait()
    return code if code >= 0 else _KILLED - code


class _SignalForwarder:
    """Sends signals to the program. Signals that arrive before it has started are sent when it starts."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._early: list[signal.Signals] = []

    def attach(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        for number in self._early:
            self.send(number)

    def send(self, number: signal.Signals) -> None:
        if number == signal.SIGINT:
            return  # the terminal sends it to the program too
        if self._process is None:
            self._early.append(number)
            return
        # Not `send_signal`: it polls the process and takes the exit code away from the waiting task.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, number)


@contextlib.contextmanager
def _forwarding_signals(app: App) -> Iterator[_SignalForwarder]:
    """Forward SIGTERM and SIGHUP to the program. SIGINT is ignored: the terminal sends it to the program itself."""
    forwarder = _SignalForwarder()
    app.shutdown.redirect_signals(forwarder.send)
    try:
        yield forwarder
    finally:
        app.shutdown.install_handlers()


def variables(tunnels: Iterable[TunnelStatus]) -> dict[str, str]:
    """Return TUNNEL_<TARGET>_<NAME>_HOST and _PORT of each tunnel with a bound TCP listener on this machine."""
    environ = {}
    for tunnel in tunnels:
        host, _, port = tunnel.bound.rpartition(":")
        if isinstance(tunnel.spec.listen, LocalTcp) and port.isdecimal():
            name = _NOT_IN_A_NAME.sub("_", f"{tunnel.spec.target}_{tunnel.spec.name}".upper())
            host = host.removeprefix("[").removesuffix("]")
            environ[f"TUNNEL_{name}_HOST"] = _LOOPBACK_OF.get(host, host)
            environ[f"TUNNEL_{name}_PORT"] = port
    return environ


# A wildcard listener is reached on loopback.
_LOOPBACK_OF = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only names, no bind
