"""Time from saving the file with one more tunnel until the tunnel answers, with 1, 100 and 1,000 tunnels in it.

The peer is what a person does without this program: start another ssh with the new forward.
"""

from __future__ import annotations

import time
from pathlib import Path

from bench.figures import OURS, REFERENCE, Key
from bench.forwarders import Forward, Kind, Login, config, forwarder
from bench.lab import Lab, forwards_of
from support.program import answers
from support.services import EchoServer

NAME = "edit"
COUNTS = (1, 100, 1000)
EACH = 10


async def measure(lab: Lab) -> None:
    async with lab.server() as (sshd, _), EchoServer() as echo:
        to = echo.port
        login = Login(sshd)
        for count in COUNTS[:2] if lab.quick else COUNTS:
            targets = [forwards_of([Kind.LOCAL] * min(count, EACH), to) for _ in range(max(1, count // EACH))]
            case = f"{count:,} tunnel{'s' * (count > 1)} in the file"
            async with forwarder(OURS, login, targets, lab.directory, within=120):
                file = lab.directory / f"{OURS}-{targets[0][0].port}" / "tunnels.yaml"
                for _ in range(lab.rounds):
                    (new,) = forwards_of([Kind.LOCAL], to)
                    targets[-1].append(new)
                    took = await _until_answered(file, config(login, targets), new)
                    lab.record(Key(NAME, case, "s", OURS), took)
        for _ in range(lab.rounds):
            (new,) = forwards_of([Kind.LOCAL], to)
            began = time.perf_counter()
            async with forwarder(REFERENCE, login, [[new]], lab.directory):
                await answers(new.port)
                lab.record(Key(NAME, "another process", "s", REFERENCE), time.perf_counter() - began)


async def _until_answered(file: Path, text: str, new: Forward) -> float:
    beside = file.with_suffix(".new")
    beside.write_text(text)
    began = time.perf_counter()
    beside.replace(file)
    await answers(new.port)
    return time.perf_counter() - began
