"""Time of a pass with an empty plan: 10,000 tunnels of 100 targets, each with a client.

Run it with `make bench ARGS=plan_noop`. The goal is a median well below 50 ms.
"""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import replace

from reconciler.core.observed import ClientInfo, FlowKey, FlowState
from reconciler.core.plan import make_plan
from unit.build import World, local, origin, target

TARGETS, TUNNELS, ROUNDS = 100, 10_000, 31


def main() -> None:
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
        took = []
        gc.collect()
        for _ in range(ROUNDS):
            began = time.perf_counter()
            plan = make_plan(world.asked, observed, world.now())
            took.append(time.perf_counter() - began)
            if plan.actions:
                raise SystemExit(f"the plan has {len(plan.actions)} actions: expected none")
        median, worst = statistics.median(took) * 1000, max(took) * 1000
        print(f"{TUNNELS} tunnels, {what}: median {median:.1f} ms, worst {worst:.1f} ms")


if __name__ == "__main__":
    main()
