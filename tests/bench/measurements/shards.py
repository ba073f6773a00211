"""Shards as processes, with 60 targets: the time until each target is served again, and how many of them move.

The time begins with the start of the processes, and ends when each tunnel has carried data.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable

from bench.figures import OURS, Key
from bench.lab import Lab
from integration.replicas import Replicas, replicas
from support.services import EchoServer

NAME = "shards"
TARGETS = [f"site-{number:02}" for number in range(60)]


async def measure(lab: Lab) -> None:
    for _ in range(1 if lab.quick else min(lab.rounds, 3)):
        async with (
            lab.server(MaxStartups="200:1:200") as (sshd, _),
            EchoServer() as echo,
            replicas(sshd, echo, lab.directory, TARGETS) as pods,
        ):
            await _converge(lab, "3 processes start", pods, pods.start_all(range(3), 3))
            before = await pods.placement()
            await pods.kill(1)
            await _converge(lab, "1 of 3 was killed and starts", pods, pods.start(1, 3))
            await _converge(lab, "a fourth starts", pods, pods.start(3, 4))
            await _converge(lab, "the other 3 restart, one by one", pods, pods.restart_all(range(3), 4))
            after = await pods.placement()
            assert sorted(name for names in after.values() for name in names) == TARGETS
            moved = sum(len(names - after[ordinal]) for ordinal, names in before.items())
            lab.record(Key("shards, moved targets", "from 3 to 4", "of 60", OURS), moved)


async def _converge(lab: Lab, case: str, pods: Replicas, change: Awaitable[None]) -> None:
    began = time.perf_counter()
    await change
    await pods.placement()
    lab.record(Key(NAME, case, "s", OURS), time.perf_counter() - began)
