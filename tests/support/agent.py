"""A real ssh-agent."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from support.processes import tied_to_parent
from support.wait import eventually, has_listener


@asynccontextmanager
async def ssh_agent(path: Path, environ: Mapping[str, str] | None = None) -> AsyncIterator[Path]:
    """Run an agent that listens on this socket, with these variables beside those of this process."""
    command = tied_to_parent(["ssh-agent", "-D", "-a", str(path)])
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, env={**os.environ, **(environ or {})}
    )
    try:
        await eventually(partial(has_listener, path), message="the agent listens")
        yield path
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def ssh_add(agent: Path, *arguments: str | Path, environ: Mapping[str, str] | None = None) -> None:
    """Run ssh-add with these arguments."""
    environ = {**os.environ, **(environ or {}), "SSH_AUTH_SOCK": str(agent)}
    subprocess.run(["ssh-add", "-q", *arguments], check=True, env=environ, stdout=subprocess.DEVNULL)
