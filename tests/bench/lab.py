"""The laboratory: settings of a run, the server and the destination, and where the figures go."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figures, Key
from bench.forwarders import PROGRAMS, Forward, Kind, Login, Running, forwarder, installed, process
from support.sshd import Sshd
from support.wait import free_port

SERVICE = Path(__file__).with_name("workload") / "service.py"


@dataclass(frozen=True, slots=True)
class Lab:
    """`quick`: one round with few bytes, to see that a measurement works."""

    directory: Path
    figures: Figures
    quick: bool = False
    rounds: int = 5

    @property
    def programs(self) -> list[str]:
        """The forwarders to measure, this program first."""
        return [name for name in PROGRAMS if installed(name)]

    def record(self, key: Key, value: float) -> None:
        self.figures.add(key, value)
        print(f"{key.measurement}, {key.case}, {key.program}: {value:,.4g} {key.unit}", file=sys.stderr, flush=True)

    @contextlib.asynccontextmanager
    async def forwarders(self, login: Login, kinds: list[Kind], to: int) -> AsyncIterator[list[Running]]:
        """Run every program, each with a forward of each kind to this port."""
        async with contextlib.AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(forwarder(name, login, [forwards_of(kinds, to)], self.directory))
                for name in self.programs
            ]

    @contextlib.asynccontextmanager
    async def server(self, **options: str) -> AsyncIterator[tuple[Sshd, int]]:
        """Run sshd and the destination. Yield both."""
        async with Sshd(self.directory / f"sshd-{free_port()}", options=options) as sshd, service() as to:
            yield sshd, to


@contextlib.asynccontextmanager
async def service(through: list[str] | None = None) -> AsyncIterator[int]:
    """Run the destination, by the command `through` if given, and yield its port."""
    port = free_port()
    async with process(
        [*(through or []), sys.executable, str(SERVICE), "127.0.0.1", str(port)], quiet=False
    ) as started:
        assert started.stdout is not None
        assert await started.stdout.readline() == b"ready\n"
        yield port


def forwards_of(kinds: list[Kind], to: int) -> list[Forward]:
    """Return a forward of each kind to this port."""
    return [Forward(kind, free_port(), to) for kind in kinds]
