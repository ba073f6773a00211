"""The actuator: carries out what the planner asks, and publishes what is there.

Owns nothing itself but the parts that do: `LinkPool` (SSH connections), `Listeners`, `ClientConnector` (clients without
a channel) and `Flows` (clients with one). In: actions. Out: `Observed`, meters, and `changed` whenever the
planner should look again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import assert_never

from reconciler.core.actions import Action, Assign, Close, Cut, Dial, Drain, Move, Open, Retire, Tune
from reconciler.core.descriptor_budget import Budget
from reconciler.core.interfaces import Probe
from reconciler.core.observed import Demand, FlowKey, LinkPhase, Observed, SocketKey
from reconciler.core.plan import is_wanted
from reconciler.core.spec import NOTHING, Desired, TunnelSpec
from reconciler.ssh.clients.connector import ClientConnector
from reconciler.ssh.counters import Counters
from reconciler.ssh.link.link import Link
from reconciler.ssh.link.pool import LinkPool
from reconciler.ssh.link.prober import Prober
from reconciler.ssh.listeners.listeners import Listeners
from reconciler.ssh.relay.connection_registry import Audit, ConnectionInfo, ConnectionRegistry
from reconciler.ssh.relay.flows import Flows
from reconciler.ssh.relay.relay import Meter
from reconciler.system import descriptors
from reconciler.system.fault_log import FaultLog

FILES_REST = 20.0  # looking at many files takes about 1/20 of the time,
FILES_EVERY_MAX = 10.0  # but they are looked at after so many seconds at the latest
LINGER = 300.0  # seconds that bytes wait for a far reader that said EOF, where the server may not tell that it has gone


class SshActuator:
    """See the module. It must be made inside the running loop that it is to live in.

    environ   where secrets that the file names as variables are looked up
    budget    of file descriptors; by default that of the process as it is now
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        probes: Mapping[str, Probe],
        *,
        changed: Callable[[], None],
        failing: Callable[[TunnelSpec], None],
        budget: Budget | None = None,
        audit: Audit | None = None,
        cut: Callable[[TunnelSpec, str], None] = lambda _tunnel, _said: None,
        fault_log: FaultLog | None = None,
    ) -> None:
        self._desired = NOTHING
        self._stalled: frozenset[int] = frozenset()
        self._prepared = NOTHING  # what `want` has told all parts of
        self._fault_log = fault_log or FaultLog()
        budget = budget or descriptors.budget()
        self.counters = Counters()
        self._registry = ConnectionRegistry(audit)
        self._flows = Flows(self._emptied)
        self._links = LinkPool(
            self._flows,
            environ,
            budget=budget,
            changed=changed,
            lost=self._link_lost,
            counters=self.counters,
            fault_log=self._fault_log,
        )
        self._connector = ClientConnector(
            self._flows,
            environ,
            budget=budget,
            pick=lambda target: self._links.pick(target, self._desired),
            wait=self._links.wait,
            changed=changed,
            cut=cut,
            counters=self.counters,
            registry=self._registry,
        )
        self._sockets = Listeners(
            self._connector,
            budget=budget,
            changed=changed,
            left=self._settle,
            counters=self.counters,
            fault_log=self._fault_log,
        )
        self._probing = Prober(
            probes,
            budget=budget,
            pick=lambda target: self._links.pick(target, self._desired),
            wait=self._links.wait,
            changed=changed,
            failing=failing,
            counters=self.counters,
        )
        self._changed = changed

    # --- the Actuator protocol ---------------------------------------------------------------------------------

    def want(self, desired: Desired) -> None:
        if desired is self._prepared:
            return
        self._desired = desired
        self._links.want(desired)
        self._sockets.forget(desired)
        tunnels = desired.tunnels.keys() | self._flows.tunnels()
        self._connector.forget(tunnels)
        self.counters.forget(desired.targets.keys() | {tunnel.partition("/")[0] for tunnel in tunnels}, tunnels)
        self._prepared = desired

    def apply(self, action: Action) -> None:  # noqa: C901 - one case for each action
        match action:
            case Dial():
                self._links.dial(action.target, action.limit)
            case Retire():
                self._links.retire(action.link)
                self._settle(action.link)
            case Tune():
                self._links.tune(action.link, action.settings)
            case Open():
                link = self._link_for(action.key, action.link) if action.link is not None else None
                if link is not None or action.link is None:
                    self._connector.look_at_passwords(action.tunnel)
                    self._sockets.open(action.key, action.tunnel, link)
            case Close():
                self._sockets.close(action.key)
            case Assign():
                # The owner comes last: where a step raises, the planner sees that the handover is not done.
                old = self._sockets.owner(action.key)
                self._flows.hand_over(action.key, old, action.tunnel, self._connector.meter(action.tunnel))
                self._flows.reapply(action.tunnel)
                self._registry.reapply(action.tunnel, self._flows.tunnel_of)
                self._connector.reapply(old, action.tunnel)
                self._sockets.assign(action.key, action.tunnel)
            case Move():
                self._move(action.key, action.link)
            case Drain():
                self._flows.drain(action.flow, action.draining)
            case Cut():
                self._flows.cut(action.flow, action.why)
            case _:
                assert_never(action)

    def observe(self) -> Observed:
        connector, hold_queue = self._connector, self._connector.hold_queue
        targets = self._desired.targets
        return Observed(
            links=self._links.states(),
            sockets=MappingProxyType(self._sockets.states()),
            flows=self._flows.states(),
            link_tries=MappingProxyType(dict(self._links.tries)),
            socket_tries=MappingProxyType(dict(self._sockets.tries)),
            demand=MappingProxyType(
                {name: Demand(hold_queue.held(name), hold_queue.last_used(name)) for name in targets}
            ),
            fingerprints=MappingProxyType(dict(self._links.fingerprints)),
            destinations=MappingProxyType(dict(connector.destinations)),
            probes=MappingProxyType(dict(self._probing.results)),
            stalled=self._links.stalled(),
            faults=MappingProxyType(self._sockets.faults()),
        )

    # --- for the reports ---------------------------------------------------------------------------------------

    @property
    def meters(self) -> Mapping[str, Meter]:
        """By tunnel id, live."""
        return MappingProxyType(self._connector.meters)

    @property
    def links(self) -> Mapping[int, Link]:
        return self._links.links()

    def usable(self, target: str) -> Link | None:
        """The link that a new client of the target would get."""
        return self._links.pick(target, self._desired)

    def visits(self) -> Iterator[ConnectionInfo]:
        """Everybody who is connected, or waits to be; the oldest first."""
        return self._registry.visits(self._flows.tunnel_of)

    def retire_now(self, target: str) -> None:
        """Cut every client of the target's connections; these end as soon as their listeners have moved."""
        for state in self._links.states():
            if state.target == target and state.phase is LinkPhase.READY:
                self._links.retire(state.id)
                self.cut("restarted by a person", link=state.id)
                self._settle(state.id)

    def cut(self, why: str, *, link: int | None = None, tunnel: str | None = None) -> None:
        """End the clients of a link or of a tunnel now."""
        for relay in self._flows.relays(link=link, tunnel=tunnel):
            relay.cut(why)
            self._flows.remove(relay)

    async def files_changed(self) -> None:
        """Files that the configuration names have other contents: one may be what somebody waits for."""
        for tunnel in self._desired.tunnels.values():
            if tunnel.policy.users:
                self._connector.look_at_passwords(tunnel)
        if await self._links.look_at_files():
            self._changed()

    # --- what only time tells ----------------------------------------------------------------------------------

    async def maintain(self) -> None:
        """Look every second after what no event announces: silence, idleness, changed files, tunnels that expired.

        What raises is a fault of this program. It keeps none of the others from being looked at.
        """
        async with asyncio.TaskGroup() as both:
            both.create_task(self._tend_files(), name="tend files")
            both.create_task(self._tend_clients(), name="tend clients")

    async def _tend_files(self) -> None:
        """By itself: a file may take its time to answer."""
        while True:
            began = time.monotonic()
            try:
                if await self._links.look_at_files():
                    self._changed()
            except Exception as error:  # noqa: BLE001 - as `maintain` says
                self._fault_log.tell("looking at the files that targets name", error)
            await asyncio.sleep(min(FILES_EVERY_MAX, max(1.0, (time.monotonic() - began) * FILES_REST)))

    async def _tend_clients(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for look in (self._look_at_links, self._look_at_clients, self._look_at_probes, self._settle_all):
                try:
                    look()
                except Exception as error:  # noqa: BLE001 - as `maintain` says
                    self._fault_log.tell("looking after what no event announces", error)

    def _look_at_links(self) -> None:
        outages = self._links.end_outages()
        before, self._stalled = self._stalled, self._links.stalled()
        if before != self._stalled or outages:
            self._changed()

    def _look_at_clients(self) -> None:
        now = asyncio.get_running_loop().time()
        for number, link in self.links.items():
            for relay in () if link.tells_of_ends else self._flows.relays(link=number):
                if relay.has_no_reader and relay.idle_for(now) >= LINGER:
                    relay.cut("nobody takes its bytes on the far side")
        for tunnel in self._desired.tunnels.values():
            if tunnel.policy.idle_timeout:
                for relay in self._flows.relays(tunnel=tunnel.id):
                    if relay.idle_for(now) >= tunnel.policy.idle_timeout:
                        relay.cut("idle for too long")

    def _look_at_probes(self) -> None:
        wall = time.time()
        self._probing.want(
            {one.id: one for one in self._desired.tunnels.values() if is_wanted(one, self._desired, wall)}
        )

    def _settle_all(self) -> None:
        """An event that was to end a retiring link may have ended in a fault."""
        for number in self._links.retiring():
            self._settle(number)

    # --- the end -----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End everything now, without draining."""
        await self._probing.close()
        await self._sockets.abort_all()
        for relay in self._flows.relays():
            relay.cut("the program ends")
        tasks = self._links.abort_all()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connector.close()

    # --- what one part tells another ---------------------------------------------------------------------------

    def _link_for(self, key: SocketKey, number: int) -> Link | None:
        """The link of that number; or the one by which the server listens there still, as long as it stays."""
        holder = self._sockets.holder(key)
        if holder is not None and not holder.gone and not self._links.is_retiring(holder.number):
            return holder
        return self._links.get(number)

    def _move(self, key: SocketKey, number: int) -> None:
        link = self._links.get(number)
        state = self._sockets.states().get(key)
        if link is None or state is None:
            return
        old = state.link
        self._sockets.move(key, link)
        if old is not None:
            self._settle(old)

    def _emptied(self, key: FlowKey) -> None:
        self._settle(key.link)
        self._changed()

    def _settle(self, link: int) -> None:
        """A retiring link ends with the last thing on it."""
        idle = not self._flows.on_link(link) and not self._sockets.on_link(link)
        if idle and self._links.is_retiring(link):
            self._links.close(link)
            self._sockets.link_gone(link)
            self._changed()

    def _link_lost(self, number: int) -> None:
        self._sockets.link_gone(number)
