"""The program itself, run inside the test on a real file: `async with running(directory, text) as tunnels`.

In: a directory and the text of tunnels.yaml. Out: `Running`, to edit the file and to wait for what comes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from reconciler.app import App
from reconciler.config.load import Config
from reconciler.core.judge import Phase, Verdict
from reconciler.report.journal import Change
from support.sshd import Sshd
from support.wait import eventually


def target(sshd: Sshd, name: str = "server", **fields: object) -> str:
    """The lines of a target that logs in to this server, up to its tunnels; add them with two spaces more."""
    known = {
        "host": sshd.host,
        "port": sshd.port,
        "user": sshd.user,
        "privateKey": sshd.client_key,
        "knownHosts": sshd.known_hosts,
        **fields,
    }
    lines = "".join(f"    {key}: {value}\n" for key, value in known.items())
    return f"  {name}:\n{lines}    tunnels:\n"


def local(name: str, port: int, to: int, **fields: object) -> str:
    """The lines of a local forward to a port of this machine."""
    more = "".join(f", {key}: {value}" for key, value in fields.items())
    return f"      - {{name: {name}, type: local, localPort: {port}, remoteHost: 127.0.0.1, remotePort: {to}{more}}}\n"


class Running:
    """The program and its file."""

    def __init__(self, file: Path, app: App, changes: list[Change]) -> None:
        self.file = file
        self.app = app
        self.changes = changes

    def edit(self, text: str) -> None:
        """Save the file as most editors and tools do: a new one, renamed over the old."""
        beside = self.file.with_name(".edited")
        beside.write_text(text)
        beside.replace(self.file)

    def verdict(self, tunnel: str) -> Verdict | None:
        """What the tunnel is, None while it is not known."""
        judgement = self.app.judgement
        found = [one.verdict for one in judgement.tunnels if one.id == tunnel] if judgement else []
        return found[0] if found else None

    def phases(self) -> Mapping[str, Phase]:
        """Of each tunnel."""
        return {one.id: one.verdict.phase for one in self.app.judgement.tunnels} if self.app.judgement else {}

    async def until(self, tunnel: str, phase: Phase, within: float = 10.0) -> Verdict:
        """Wait for a tunnel's phase."""

        def reached() -> bool:
            verdict = self.verdict(tunnel)
            return verdict is not None and verdict.phase is phase

        await eventually(reached, within=within, message=f"{tunnel} is {phase}; it is {self.verdict(tunnel)}")
        verdict = self.verdict(tunnel)
        assert verdict is not None
        return verdict

    async def all_up(self, *tunnels: str, within: float = 10.0) -> None:
        """Wait until exactly these tunnels (all there are, if none is named) are there and up."""

        def reached() -> bool:
            phases = self.phases()
            named = not tunnels or phases.keys() == set(tunnels)
            return bool(phases) and named and all(phase is Phase.UP for phase in phases.values())

        await eventually(reached, within=within, message=f"all are up: {self.phases()}")


@contextlib.asynccontextmanager
async def running(directory: Path, text: str) -> AsyncIterator[Running]:
    """The program on a file with this text, ended in the orderly way when the block is left."""
    file = directory / "tunnels.yaml"
    file.write_text(text)
    changes: list[Change] = []
    app = App(Config([file], environ={"HOME": str(directory)}), on_change=changes.append)
    task = asyncio.create_task(app.run())
    try:
        yield Running(file, app, changes)
    finally:
        app.end()
        app.end()
        assert await asyncio.wait_for(task, 10) == 0
