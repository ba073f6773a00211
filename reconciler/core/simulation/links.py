"""The SSH connections of the simulator, and their failed tries."""

from __future__ import annotations

from collections.abc import Collection, MutableMapping
from dataclasses import replace

from reconciler.core import backoff
from reconciler.core.actions import Action, Dial, Retire, Tune
from reconciler.core.observed import Failure, LinkPhase, LinkState, Observed, Reason, SocketKey, SocketState
from reconciler.core.simulation.impossible import ImpossibleError, require
from reconciler.core.spec import Desired, Endpoint


class SimulatedLinks:
    """All links by id. A dialling or retiring link is also an entry of `unfinished`, which the simulator owns."""

    def __init__(self, observed: Observed, unfinished: MutableMapping[int | SocketKey, None]) -> None:
        self.by_id = {link.id: link for link in observed.links}
        self.tries = dict(observed.link_tries)
        self._last_id = max(self.by_id, default=0)
        self._unfinished = unfinished

    def set_desired(self, desired: Desired) -> None:
        """Drop the failed tries of each access that is no longer desired: they say nothing about the next edit."""
        wanted = {target.name: target.access for target in desired.targets.values()}
        self.tries = {name: tries for name, tries in self.tries.items() if wanted.get(name) == tries.access}

    def drop_recovered(self, now: float) -> None:
        """Drop the failed tries of each target whose link has been up long enough."""
        for link in self.by_id.values():
            tries = self.tries.get(link.target)
            if link.phase is LinkPhase.READY and tries is not None and backoff.is_over(tries, link.since, now):
                del self.tries[link.target]

    def ready(self, link_id: int, action: Action) -> LinkState:
        """Return a ready link. Raises ImpossibleError if it is not ready."""
        link = self.by_id.get(link_id)
        if link is None or link.phase is not LinkPhase.READY:
            raise ImpossibleError(f"expected a link that is ready: {action}")
        return link

    def usable_by(self, socket: SocketState) -> list[int]:
        """Return the links that a new client of this socket can use."""
        return [
            link.id
            for link in self.by_id.values()
            if (link.id == socket.link if socket.link is not None else link.phase is LinkPhase.READY)
            and link.target == socket.owner.target
        ]

    # --- actions ---

    def dial(self, dial: Dial, desired: Desired, now: float) -> None:
        target = dial.target
        require(desired.targets.get(target.name) == target and target.off is None, "a wanted target", dial)
        require(0 < dial.limit <= len(target.access.hop.hosts), "a limit within the hosts", dial)
        dialing = [k for k in self.by_id.values() if k.target == target.name and k.phase is LinkPhase.DIALING]
        # As many dials again may be in progress to preferred hosts only (fail-back).
        require(len(dialing) < 2 * target.connections, "no more dials than connections", dial)
        self._last_id += 1
        self._unfinished[self._last_id] = None
        self.by_id[self._last_id] = LinkState(
            id=self._last_id,
            target=target.name,
            access=target.access,
            settings=target.settings,
            limit=dial.limit,
            host=-1,
            preferred_host_failure=None,
            phase=LinkPhase.DIALING,
            since=now,
            trusted=True,
        )

    def retire(self, retire: Retire, now: float) -> None:
        link = self.by_id.get(retire.link)
        if link is None or link.phase is LinkPhase.RETIRING:
            raise ImpossibleError(f"expected a link that is there and not retiring: {retire}")
        self.by_id[link.id] = replace(link, phase=LinkPhase.RETIRING, since=now)
        self._unfinished[link.id] = None

    def tune(self, tune: Tune) -> None:
        self.by_id[tune.link] = replace(self.ready(tune.link, tune), settings=tune.settings)

    # --- events ---

    def connect(self, link: LinkState, unreachable: Collection[Endpoint], now: float) -> Failure | None:
        """Finish a dial. Return the failure, with the link unchanged, if every host is unreachable."""
        hosts = link.access.hop.hosts[: link.limit]
        reached = next((index for index, host in enumerate(hosts) if host not in unreachable), None)
        if reached is None:
            return Failure(Reason.UNREACHABLE, "no host is reachable")
        preferred = Failure(Reason.UNREACHABLE, "the host is not reachable") if reached else None
        self.by_id[link.id] = replace(
            link, host=reached, preferred_host_failure=preferred, phase=LinkPhase.READY, since=now
        )
        return None

    def set_trusted(self, link_id: int, trusted: bool) -> None:
        self.by_id[link_id] = replace(self.by_id[link_id], trusted=trusted)

    def remove(self, link_id: int) -> LinkState:
        self._unfinished.pop(link_id, None)
        return self.by_id.pop(link_id)

    def record_failure(self, link: LinkState, failure: Failure, desired: Desired, now: float, fingerprint: str) -> None:
        """Record the failure of a removed link, unless it was to be replaced or retired anyway."""
        target = desired.targets.get(link.target)
        replaced = target is None or target.access != link.access or not link.trusted
        if replaced or link.phase is LinkPhase.RETIRING:
            return
        previous = self.tries.get(link.target)
        if link.phase is LinkPhase.READY:
            tries = backoff.lost(previous, failure, now, now - link.since, link.access, fingerprint)
        else:
            tries = backoff.failed(previous, failure, now, link.access, fingerprint)
        self.tries[link.target] = tries
