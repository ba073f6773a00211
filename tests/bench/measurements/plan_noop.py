"""Time of a pass with an empty plan: 10,000 tunnels of 100 targets, each with a client."""

from __future__ import annotations

import gc
import time
from dataclasses import replace

from bench.figures import OURS, Key
from bench.lab import Lab
from reconciler.core.observed import ClientInfo, FlowKey, FlowState
from reconciler.core.plan import make_plan
from unit.build import World, local, origin, target

NAME = "empty pass"
TARGETS, TUNNELS, ROUNDS = 100, 10_000, 11


async def measure(lab: Lab) -> None:
    world = World()
    world.instant = True
    world.edit(
        *(target(f"t{number}") for number in range(TARGETS)),
        *(local(f"t{number % TARGETS}/{number}", number + 1, to=f"host{number}") for number in range(TUNNELS)),
    )
    idle = world.observe()
    link = {link.target: link.id for link in idle.links}
    flows = tuple(
        FlowState(
            FlowKey(socket.owner.id, socket.key.listen, socket.owner.route, link[socket.owner.target]),
            (ClientInfo(origin("127.0.0.1")),),
            30.0,
            None,
        )
        for socket in idle.sockets.values()
    )
    for what, observed in (("no clients", idle), ("a client each", replace(idle, flows=flows))):
        gc.collect()
        for _ in range(ROUNDS):
            began = time.perf_counter()
            plan = make_plan(world.asked, observed, world.now())
            took = time.perf_counter() - began
            if plan.actions:
                raise SystemExit(f"the plan has {len(plan.actions)} actions: expected none")
            lab.record(Key(NAME, f"{TUNNELS:,} tunnels, {what}", "ms", OURS), took * 1000)
