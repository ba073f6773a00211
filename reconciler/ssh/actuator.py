"""The actuator: carries out the planner's actions and publishes the observed state.

Owns the parts that hold the state: `LinkPool` (SSH connections), `Listeners`, `ClientConnector` (clients without a
link) and `Flows` (clients with one). Input: actions. Output: `Observed`, the records of the tunnels' clients, and a
call of `changed` when the planner should run again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import assert_never

from reconciler.core.actions import Action, Assign, Close, Cut, Dial, Drain, Move, Open, Retire, Tune
from reconciler.core.descriptor_budget import Budget
from reconciler.core.interfaces import Probe
from reconciler.core.losses import pattern
from reconciler.core.observed import Demand, FlowKey, LinkPhase, Observed, SocketKey
from reconciler.core.plan import is_wanted
from reconciler.core.spec import NOTHING, Desired, TunnelSpec
from reconciler.ssh.clients.connection import ClientConnection
from reconciler.ssh.clients.connection_registry import Audit, ConnectionRegistry
from reconciler.ssh.clients.connector import ClientConnector
from reconciler.ssh.clients.flows import Flows
from reconciler.ssh.link.link import Link
from reconciler.ssh.link.pool import LinkPool
from reconciler.ssh.link.prober import Prober
from reconciler.ssh.listeners.listeners import Listeners
from reconciler.ssh.records import Records
from reconciler.system import descriptors
from reconciler.system.fault_log import FaultLog

FILE_CHECK_PAUSE_RATIO = 20.0  # pause after a check of all files, as a multiple of the time that the check took
FILE_CHECK_PAUSE_MAX = 10.0  # seconds, the longest pause


class SshActuator:
    """Carries out actions with the parts it owns. Must be created inside the event loop that it runs in.

    environ   environment variables, for secrets that the file names as variables
    changed   called when the planner should run again
    failing   called with a tunnel whose probe asks for a new link
    budget    of file descriptors; default: the budget of the process as it is now
    audit     called when an audited client connection opens and when it ends
    cut       called with a tunnel and a summary when an edit of its rules cut clients
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
        cut: Callable[[TunnelSpec, str], None] = lambda _tunnel, _summary: None,
        fault_log: FaultLog | None = None,
    ) -> None:
        self._desired = NOTHING
        self._stalled: frozenset[int] = frozenset()
        self._prepared = NOTHING  # the value that all parts have received
        self._fault_log = fault_log or FaultLog()
        budget = budget or descriptors.budget()
        self.records = Records()
        self._registry = ConnectionRegistry(audit)
        self._flows = Flows(self.records, self._flow_emptied)
        self._links = LinkPool(
            self._flows.on_link,
            environ,
            budget=budget,
            changed=changed,
            lost=self._link_lost,
            records=self.records,
            fault_log=self._fault_log,
        )
        self._connector = ClientConnector(
            self._flows,
            environ,
            budget=budget,
            select_link=lambda target: self._links.select(target, self._desired),
            wait=self._links.wait,
            changed=changed,
            cut=cut,
            records=self.records,
            registry=self._registry,
        )
        self._listeners = Listeners(
            self._connector,
            budget=budget,
            changed=changed,
            listener_gone=self._close_if_drained,
            records=self.records,
            fault_log=self._fault_log,
        )
        self._prober = Prober(
            probes,
            budget=budget,
            select_link=lambda target: self._links.select(target, self._desired),
            wait=self._links.wait,
            changed=changed,
            failing=failing,
            records=self.records,
        )
        self._changed = changed

    # --- the Actuator protocol ---------------------------------------------------------------------------------

    def set_desired(self, desired: Desired) -> None:
        if desired is self._prepared:
            return
        self._desired = desired
        self._links.set_desired(desired)
        self._listeners.addresses.prune(desired)
        self._drop_records()
        self._prepared = desired

    def apply(self, action: Action) -> None:  # noqa: C901 - one case for each action
        match action:
            case Dial():
                self._links.dial(action.target, action.limit)
            case Retire():
                self._links.retire(action.link)
                self._close_if_drained(action.link)
            case Tune():
                self._links.apply_settings(action.link, action.settings)
            case Open():
                link = self._link_for(action.key, action.link) if action.link is not None else None
                if link is not None or action.link is None:
                    self._connector.destinations.check_passwords(action.tunnel)
                    self._listeners.open(action.key, action.tunnel, link)
            case Close():
                self._listeners.close(action.key)
            case Assign():
                # The owner is set last: if a step raises, the planner sees that the handover is incomplete.
                old = self._listeners.addresses.listener(action.key).state.owner
                self._flows.assign(action.key, old, action.tunnel)
                self._connector.reapply(old, action.tunnel)
                self._listeners.assign(action.key, action.tunnel)
            case Move():
                self._move(action.key, action.link)
            case Drain():
                self._flows.drain(action.flow, action.draining)
            case Cut():
                self._flows.cut(action.flow, action.why)
            case _:
                assert_never(action)

    def observe(self) -> Observed:
        targets = [self.records.target(name) for name in self._desired.targets]
        failed = [target for target in self.records.targets() if target.tries is not None]
        return Observed(
            links=self._links.states(),
            sockets=MappingProxyType(self._listeners.addresses.states()),
            flows=self._flows.states(),
            link_tries=MappingProxyType({one.name: one.tries for one in failed if one.tries is not None}),
            socket_tries=MappingProxyType(self._listeners.addresses.tries()),
            demand=MappingProxyType({one.name: Demand(one.held, one.last_used) for one in targets}),
            fingerprints=MappingProxyType({one.name: one.fingerprint for one in failed}),
            destinations=MappingProxyType(self._connector.destinations.observed()),
            probes=MappingProxyType(
                {one.id: one.probe.result for one in self.records.tunnels() if one.probe and one.probe.result}
            ),
            stalled=self._links.stalled(),
            repeated_losses=MappingProxyType({one.name: lost for one in targets if (lost := pattern(one.losses))}),
            faults=MappingProxyType(
                {one.id: one.cancel_tries for one in self.records.tunnels() if one.cancel_tries is not None}
            ),
        )

    # --- for the reports ---------------------------------------------------------------------------------------

    @property
    def links(self) -> Mapping[int, Link]:
        return self._links.links()

    def usable(self, target: str) -> Link | None:
        """Return the link that a new client of the target would get."""
        return self._links.select(target, self._desired)

    def connections(self) -> tuple[ClientConnection, ...]:
        """Return the client connections, held ones included, oldest first."""
        return self._registry.connections()

    def retire_now(self, target: str, why: str) -> None:
        """Retire the target's ready links and cut their clients. Each link closes once its listeners have moved."""
        for state in self._links.states():
            if state.target == target and state.phase is LinkPhase.READY:
                self._links.retire(state.id)
                self.cut(why, link=state.id)
                self._close_if_drained(state.id)

    def cut(self, why: str, *, link: int | None = None, tunnel: str | None = None) -> None:
        """End the clients of a link or of a tunnel now."""
        for connection in self._flows.connections(link=link, tunnel=tunnel):
            connection.cut(why)
            self._flows.remove(connection)

    async def files_changed(self) -> None:
        """Check the files that the configuration names: a target or tunnel may wait for a change of one."""
        for tunnel in self._desired.tunnels.values():
            if tunnel.policy.users:
                self._connector.destinations.check_passwords(tunnel)
        if await self._links.check_files():
            self._changed()

    # --- periodic maintenance ----------------------------------------------------------------------------------

    async def maintain(self) -> None:
        """Check once a second what no event announces: silent links, idle clients, changed files, expired tunnels.

        An exception in one check is an internal error. It is logged, and the other checks still run.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._maintain_files(), name="maintain files")
            group.create_task(self._maintain_clients(), name="maintain clients")

    async def _maintain_files(self) -> None:
        """Check files in a task of their own: a file system may answer slowly."""
        while True:
            started = time.monotonic()
            try:
                if await self._links.check_files():
                    self._changed()
            except Exception as error:  # noqa: BLE001 - see `maintain`
                self._fault_log.tell("checking the files that targets name", error)
            pause = max(1.0, (time.monotonic() - started) * FILE_CHECK_PAUSE_RATIO)
            await asyncio.sleep(min(FILE_CHECK_PAUSE_MAX, pause))

    async def _maintain_clients(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for check in (
                self._check_links,
                self._check_clients,
                self._check_probes,
                self._close_all_drained,
                self._drop_records,
            ):
                try:
                    check()
                except Exception as error:  # noqa: BLE001 - see `maintain`
                    self._fault_log.tell("running periodic checks", error)

    def _check_links(self) -> None:
        outages = self._links.end_outages()
        self._links.doubt_stalled()
        before, self._stalled = self._stalled, self._links.stalled()
        if before != self._stalled or outages:
            self._changed()

    def _check_clients(self) -> None:
        now = asyncio.get_running_loop().time()
        for connection in self._flows.connections():
            if why := connection.overdue(now):
                connection.cut(why)

    def _check_probes(self) -> None:
        wall = time.time()
        self._prober.set_tunnels(
            {tunnel.id: tunnel for tunnel in self._desired.tunnels.values() if is_wanted(tunnel, self._desired, wall)}
        )

    def _close_all_drained(self) -> None:
        """Close the retiring links that carry nothing: a fault may have lost the event that should have closed one."""
        for number in self.links:
            self._close_if_drained(number)

    def _drop_records(self) -> None:
        """Drop what is known about targets and tunnels that are not desired, once nothing of them is left."""
        self.records.drop_unused(self._desired, {link.target for link in self._links.states()})

    # --- shutdown ----------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End everything now, without draining."""
        await self._prober.close()
        await self._listeners.abort_all()
        for connection in self._flows.connections():
            connection.cut("the program is shutting down")
        tasks = self._links.abort_all()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connector.close()

    # --- callbacks between the parts ---------------------------------------------------------------------------

    def _link_for(self, key: SocketKey, number: int) -> Link | None:
        """Return the link to listen on: the old one if its server still holds the port, else the one of that number."""
        address = self._listeners.addresses.get(key)
        unreleased = address.unreleased if address is not None else None
        if unreleased is not None and not unreleased.gone and not self._links.is_retiring(unreleased.number):
            return unreleased
        return self._links.get(number)

    def _move(self, key: SocketKey, number: int) -> None:
        link = self._links.get(number)
        address = self._listeners.addresses.get(key)
        if link is None or address is None or address.listener is None:
            return
        old = address.listener.state.link
        self._listeners.move(key, link)
        if old is not None:
            self._close_if_drained(old)

    def _flow_emptied(self, key: FlowKey) -> None:
        self._close_if_drained(key.link)
        self._changed()

    def _close_if_drained(self, link: int) -> None:
        """Close a retiring link that carries no client and no listener."""
        if not self._links.is_retiring(link):
            return
        if not self._flows.on_link(link) and not self._listeners.addresses.on_link(link):
            self._links.close(link)
            self._listeners.link_gone(link)
            self._changed()

    def _link_lost(self, number: int) -> None:
        self._listeners.link_gone(number)
