"""Runs `tunnels` commands as processes: one to its end, or `tunnels run` in the background."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from support.wait import eventually, has_listener

WITHIN = 60.0  # seconds; the start of a command alone is slow on a busy machine


class Ran(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@contextlib.asynccontextmanager
async def process(
    *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start `tunnels` with all streams piped; kill it at the end of the block if it still runs."""
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "reconciler",
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=_environment(env),
        cwd=cwd,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    """Return our environment without variables that change what commands do: xdist sets COLUMNS in its workers."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("TUNNELS_", "XDG_", "COLUMNS"))}
    return ours | {"PYTHONPATH": str(Path(__file__).parents[2]), **(more or {})}


async def ran(
    *arguments: object, env: Mapping[str, str] | None = None, stdin: str = "", cwd: Path | None = None
) -> Ran:
    """Run a command to its end."""
    async with process(*arguments, env=env, cwd=cwd) as started:
        out, err = await asyncio.wait_for(started.communicate(stdin.encode()), WITHIN)
        assert started.returncode is not None
        return Ran(started.returncode, out.decode(), err.decode())


class Program:
    """A running `tunnels run` with its file and its control socket."""

    def __init__(self, file: Path, control: Path) -> None:
        self.file = file
        self.control = control

    async def ran(self, *arguments: object, env: Mapping[str, str] | None = None, stdin: str = "") -> Ran:
        """Run a command against this process."""
        return await ran(*arguments, env={"TUNNELS_CONTROL": str(self.control), **(env or {})}, stdin=stdin)

    def edit(self, text: str) -> None:
        temporary = self.file.with_name(".edited")
        temporary.write_text(text)
        temporary.replace(self.file)


@contextlib.asynccontextmanager
async def program(directory: Path, text: str, *options: str) -> AsyncIterator[Program]:
    """Start `tunnels run` on a file with this text, with a control socket and no HTTP."""
    file, control = directory / "tunnels.yaml", directory / "control.sock"
    file.write_text(text)
    async with process("run", "--control", control, "--listen", "none", *options, file) as started:
        reader = asyncio.create_task(_drain(started))
        try:
            await eventually(partial(has_listener, control), within=WITHIN, message="the control socket is served")
            yield Program(file, control)
            assert await _ended(started) == 0
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)


async def _ended(started: asyncio.subprocess.Process) -> int:
    """Send SIGTERM until the process ends, and return its exit code. A test may leave clients that drain."""
    async with asyncio.timeout(WITHIN):
        while started.returncode is None:
            # Not `send_signal`: it polls the process and takes the exit code away from asyncio.
            with contextlib.suppress(ProcessLookupError):
                os.kill(started.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                # Two pending signals of one kind are merged: send the next after the last is handled.
                await asyncio.wait_for(started.wait(), 2)
    return started.returncode


async def _drain(started: asyncio.subprocess.Process) -> None:
    """Copy the log to stderr, so that a failed test shows it and the process never blocks."""
    assert started.stderr is not None
    while line := await started.stderr.readline():
        sys.stderr.write(line.decode())
