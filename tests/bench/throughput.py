"""Throughput of one stream through this program and through `ssh -L`, each with its default cipher.

Prints MiB/s and their ratio. The goal is a ratio of at least 1.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path

from bench import _peers
from support.sshd import Sshd

MIB, ROUNDS = 512, 5


def main() -> None:
    asyncio.run(_main())


async def _main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        async with Sshd(path) as sshd, _peers.service() as to:
            async with _peers.ours(sshd, to, path) as mine, _peers.ssh(sshd, to) as theirs:
                for way in ("down", "up"):
                    await _compare(way, mine, theirs)


async def _compare(way: str, mine: int, theirs: int) -> None:
    pairs = [(await _peers.move(mine, way, MIB), await _peers.move(theirs, way, MIB)) for _ in range(ROUNDS)]
    ours, peer = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    print(f"{way:>4}: ours {ours:.0f} MiB/s, ssh -L {peer:.0f} MiB/s, ratio {ratio:.2f}")
