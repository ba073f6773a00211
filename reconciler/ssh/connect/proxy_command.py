"""A proxy command: a program whose standard input and output carry the SSH connection.

Owns the process. It runs in its own process group, and the whole group ends with the connection (`aws ssm` and shells
start children). The last line of its standard error is kept for the failure message.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections.abc import Sequence
from dataclasses import replace

from reconciler.core.observed import Failure, Reason
from reconciler.core.spec import Endpoint
from reconciler.ssh.errors.failure import DialFailed
from reconciler.ssh.errors.patterns import printable
from reconciler.system.descriptors import with_given_limit

_GRACE = 2.0  # seconds between SIGTERM and SIGKILL
_DYING = 0.1  # seconds until killed children are reaped again
_TAIL = 2048  # bytes of standard error that are kept
_PIPE = 1 << 16  # bytes that a pipe holds
_FIX = "correct `proxyCommand`, or what it needs to run"


class ProxyCommand(asyncio.SubprocessProtocol):
    """A running proxy command. `sock` is this process's end of its standard input and output.

    It has the methods that asyncssh calls on the `tunnel` of a connection, so that it ends with the connection.
    """

    def __init__(self, program: str) -> None:
        self.program = program
        self.sock: socket.socket
        self._transport: asyncio.SubprocessTransport | None = None
        self._errors = b""
        self._is_cut = False  # the start of the errors is missing
        self._exited = asyncio.Event()
        self._kill: asyncio.TimerHandle | None = None

    # asyncio.SubprocessProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.SubprocessTransport):
            self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        if fd == 2 and isinstance(data, bytes):  # standard error
            self._is_cut = self._is_cut or len(self._errors) + len(data) > _TAIL
            self._errors = (self._errors + data)[-_TAIL:]

    def process_exited(self) -> None:
        self._exited.set()
        self._read_errors()
        if self._kill is not None:
            self._kill.cancel()
        # Kill children that outlived the program: the group has no other members now.
        self._signal(signal.SIGKILL)
        if self._transport is not None:
            self._reap(self._transport.get_pid())
            self._transport.close()

    def _reap(self, group: int) -> None:
        """Reap the group. As process 1 of a container this process inherits the children, which would stay zombies."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-group, os.WNOHANG)[0]:
                pass
            asyncio.get_running_loop().call_later(_DYING, self._reap, group)

    # what asyncssh calls on a tunnel

    def close(self) -> None:
        """Terminate the whole group; kill it if it does not end."""
        if self._exited.is_set() or self._kill is not None:
            return
        self._signal(signal.SIGTERM)
        self._kill = asyncio.get_running_loop().call_later(_GRACE, self._signal, signal.SIGKILL)

    async def wait_closed(self) -> None:
        await self._exited.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self._transport is None:
            return
        try:
            os.killpg(self._transport.get_pid(), number)
        except (ProcessLookupError, PermissionError):  # macOS reports EPERM for a group of zombies
            return

    async def failure(self, where: str) -> Failure | None:
        """The failure, if the program has ended or ends within half a second: its end is why there is no connection."""
        try:
            async with asyncio.timeout(0.5):
                await self._exited.wait()
        except TimeoutError:
            return None
        status = self._transport.get_returncode() if self._transport is not None else None
        if status == 0:  # nc exits so when the server closes: the program did not fail
            return None
        last_line = self._last_line()
        ended = f"was ended by signal {-status}" if status is not None and status < 0 else f"ended with status {status}"
        what = f"the proxy command {self.program} for {where} {ended}"
        return Failure(Reason.UNREACHABLE, f"{what} ({last_line})" if last_line else what, _FIX)

    def logged_in(self) -> None:
        """Drop the standard error from before the login: it does not explain a later end of the connection."""
        self._errors, self._is_cut = b"", False

    def explain(self, failure: Failure) -> Failure:
        """Return the failure of the connection with the last line of the program's standard error, if there is one."""
        self._read_errors()
        last_line = self._last_line()
        what = f"{failure.what}; the proxy command {self.program} says `{last_line}`"
        return replace(failure, what=what) if last_line else failure

    def _read_errors(self) -> None:
        """Read what the event loop has not read yet: the end of the connection may be noticed first."""
        transport = self._transport.get_pipe_transport(2) if self._transport is not None else None
        pipe = transport.get_extra_info("pipe") if transport is not None and not transport.is_closing() else None
        if pipe is not None:
            with contextlib.suppress(OSError):  # nothing to read, or closed
                self.pipe_data_received(2, os.read(pipe.fileno(), _PIPE))

    def _last_line(self) -> str:
        lines = self._errors.decode("utf-8", "replace").split("\n")
        if self._is_cut:  # a cut line may hold half of a value that is hidden
            lines = lines[1:]
        return printable(next((line.strip() for line in reversed(lines) if line.strip()), ""))


async def start(command: Sequence[str], endpoint: Endpoint, user: str, where: str) -> ProxyCommand:
    """Start the command with %h, %p, %r and %% replaced as in ssh_config, without a shell. Raises DialFailed."""
    arguments = [_filled_in(argument, endpoint, user) for argument in command]
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    try:
        _, proxy = await loop.subprocess_exec(
            lambda: ProxyCommand(printable(arguments[0])),
            *with_given_limit(arguments, os.environ),
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            start_new_session=True,
        )
    except OSError as error:
        ours.close()
        what = f"cannot start the proxy command {printable(arguments[0])} for {where} ({error.strerror})"
        raise DialFailed(Failure(Reason.UNREACHABLE, what, _FIX)) from error
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    ours.setblocking(False)
    proxy.sock = ours
    return proxy


def _filled_in(argument: str, endpoint: Endpoint, user: str) -> str:
    values = {"%h": endpoint.host, "%p": str(endpoint.port), "%r": user, "%%": "%"}
    return re.sub(r"%[hpr%]", lambda token: values[token.group()], argument)
