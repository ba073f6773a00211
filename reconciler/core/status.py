"""Desired and observed -> what each target and tunnel is, and why, in words. Pure.

One judgement serves the log, `status`, the metrics and `/readyz`, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from types import MappingProxyType

from reconciler.core.backoff import next_fault_try, next_link_try, next_socket_try
from reconciler.core.observed import (
    Destination,
    Failure,
    LinkPhase,
    LinkState,
    Now,
    Observed,
    Phase,
    Reason,
    SocketPhase,
    SocketState,
    Tries,
)
from reconciler.core.plan import FAIL_BACK_EVERY, is_wanted
from reconciler.core.spec import Desired, Listen, RemoteTcp, TargetSpec, TunnelSpec

_NONE_BROKEN: Mapping[str, str] = MappingProxyType({})
UNHEALTHY_AFTER = 3  # dial failures in a row, where no probe says more


@dataclass(frozen=True, slots=True)
class Verdict:
    """A phase and, where it is not plainly up, why. `next_try` is monotonic seconds, None where none is due."""

    phase: Phase
    reason: Reason | None = None
    message: str = ""
    next_try: float | None = None
    failures: int = 0  # in a row

    @property
    def needs_action(self) -> bool:
        return self.reason is not None and Failure(self.reason, "").needs_action

    @property
    def is_trouble(self) -> bool:
        """Whether something fails: it is not up, or it is and what is to replace its connection cannot be made."""
        return self.reason is not None


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """A target: `host` it is connected to ("" none), `links` that carry it."""

    name: str
    verdict: Verdict
    host: str
    links: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TunnelStatus:
    """A tunnel: `bound` is the address it listens on, or is to listen on."""

    id: str
    spec: TunnelSpec
    verdict: Verdict
    bound: str


@dataclass(frozen=True, slots=True)
class Status:
    """Everything, in the order of the file. `leaving`: removed tunnels whose last clients are still there."""

    targets: tuple[TargetStatus, ...]
    tunnels: tuple[TunnelStatus, ...]
    leaving: tuple[TunnelStatus, ...] = ()


def is_settled(desired: Desired, observed: Observed) -> bool:
    """Whether nothing is under way for the first time: what goes on is retries, probes and clients who drain."""
    if any(socket.phase is not SocketPhase.BOUND for socket in observed.sockets.values()):
        return False
    for link in observed.links:
        if link.phase is LinkPhase.DIALING:
            tries = observed.link_tries.get(link.target)
            target = desired.targets.get(link.target)
            if target is None or tries is None or tries.access != target.access:
                return False
    return True


def make_status(
    desired: Desired,
    observed: Observed,
    now: Now,
    broken: Mapping[str, str] = _NONE_BROKEN,
    removed: Iterable[TunnelSpec] = (),
    gone: str = "removed",
) -> Status:
    """What is up, what is not, and why.

    `broken`: targets that the file's own gaps keep off, with the sentence. `removed`: tunnels that were asked for;
    `gone`: why they are not any more.
    """
    by_target: dict[str, list[LinkState]] = {}
    for link in observed.links:
        by_target.setdefault(link.target, []).append(link)
    targets = {
        target.name: TargetStatus(target.name, _broken(broken[target.name]), "", ())
        if target.name in broken
        else _faulty(_judge_target(target, by_target.get(target.name, []), observed, now), target.name, observed)
        for target in desired.targets.values()
    }
    # A socket elsewhere that is still the tunnel's own is the one it had before an edit, and says nothing of the new.
    sockets = {(socket.owner.id, socket.key.listen): socket for socket in observed.sockets.values()}
    busy = {flow.key.tunnel for flow in observed.flows}
    failures = {key.listen: tries for key, tries in observed.socket_tries.items()}
    tunnels = []
    for tunnel in desired.tunnels.values():
        socket = sockets.get((tunnel.id, tunnel.listen))
        # Trying again does not make it well: the last failure holds until the socket is bound.
        tries = failures.get(tunnel.listen) if socket is None or socket.phase is SocketPhase.OPENING else None
        if tunnel.target in broken and not tunnel.off:
            verdict = _broken(broken[tunnel.target])
        elif not is_wanted(tunnel, desired, now.wall):
            verdict = _off(tunnel, desired, draining=tunnel.id in busy)
        else:
            verdict = _judge_tunnel(tunnel, socket, tries, targets[tunnel.target].verdict, observed)
        if tunnel.id in observed.faults:
            verdict = _with_fault(verdict, observed.faults[tunnel.id])
        bound = socket.bound if socket is not None and socket.bound else str(tunnel.listen)
        tunnels.append(TunnelStatus(tunnel.id, tunnel, verdict, bound))
    leaving = tuple(
        TunnelStatus(tunnel.id, tunnel, _leaving(gone), str(tunnel.listen))
        for tunnel in removed
        if tunnel.id in busy and tunnel.id not in desired.tunnels
    )
    return Status(tuple(targets.values()), tuple(tunnels), leaving)


def _broken(message: str) -> Verdict:
    return Verdict(Phase.DOWN, Reason.SECRET_UNREADABLE, message)


def _faulty(status: TargetStatus, name: str, observed: Observed) -> TargetStatus:
    tries = observed.faults.get(name)
    return status if tries is None else replace(status, verdict=_with_fault(status.verdict, tries))


def _with_fault(verdict: Verdict, tries: Tries) -> Verdict:
    """The verdict of something that a fault of this program keeps from being as it is asked for.

    What is up stays up, as it was before the edit; what was only to come up is down. A failure of the world's goes
    before: it is what a person can do something about.
    """
    if verdict.is_trouble:
        return verdict
    is_to_come = verdict.phase in (Phase.PENDING, Phase.CONNECTING)
    return Verdict(
        Phase.DOWN if is_to_come else verdict.phase,
        tries.last.reason,
        f"{verdict.message}; {tries.last.message}" if verdict.message else tries.last.message,
        next_fault_try(tries),
        tries.failures,
    )


# --- targets ----------------------------------------------------------------------------------------------------


def _judge_target(target: TargetSpec, links: list[LinkState], observed: Observed, now: Now) -> TargetStatus:
    ready = [link for link in links if link.phase is LinkPhase.READY]
    live = [link for link in ready if link.id not in observed.stalled]
    host = str(ready[0].access.hop.hosts[ready[0].host]) if ready else ""
    verdict = _target_verdict(target, links, ready, live, observed, now)
    return TargetStatus(target.name, verdict, host, tuple(link.id for link in ready))


def _target_verdict(
    target: TargetSpec,
    links: list[LinkState],
    ready: list[LinkState],
    live: list[LinkState],
    observed: Observed,
    now: Now,
) -> Verdict:
    tries = observed.link_tries.get(target.name)
    if tries is not None and tries.access != target.access:
        tries = None  # it is about a way that nobody asks for any more
    if target.off:
        return Verdict(Phase.OFF, message=f"{target.off}")
    if live:
        right = [link for link in live if link.access == target.access and link.trusted]
        if right or tries is None:
            return Verdict(Phase.UP, message=_second_choice(right, tries))
        return Verdict(
            Phase.UP,
            tries.last.reason,
            f"the old connection goes on; the new one cannot be made: {tries.last.message}",
            _next_try(target, tries, observed, now),
            tries.failures,
        )
    if ready:
        interval = target.settings.keepalive_interval
        message = f"nothing was heard from the server for {interval:g} s: new clients wait until it answers"
        return Verdict(Phase.DOWN, Reason.KEEPALIVE, message)
    if tries is not None and not (_rests(target, links, observed, now) and not tries.last.needs_action):
        due = _next_try(target, tries, observed, now)
        return Verdict(Phase.DOWN, tries.last.reason, tries.last.message, due, tries.failures)
    if any(link.phase is LinkPhase.DIALING for link in links):
        return Verdict(Phase.CONNECTING)
    if target.on_demand is not None:
        last = f"; the last connection: {tries.last.message}" if tries is not None else ""
        return Verdict(Phase.STANDBY, message=f"connects when the first client comes{last}")
    return Verdict(Phase.PENDING)


def _second_choice(links: list[LinkState], tries: Tries | None) -> str:
    """What there is to say where the host that is preferred carries nobody."""
    best = min(links, key=lambda link: link.host, default=None)
    if best is None or best.host == 0:
        return ""
    hosts = best.access.hop.hosts
    before = f"{hosts[0]} is" if best.host == 1 else "those before it are"
    last = tries.last if tries is not None and tries.at > best.since else best.preferred_host_failure
    again = f"{before} tried again every {FAIL_BACK_EVERY:g} s{f'; last time: {last.message}' if last else ''}"
    return f"on {hosts[best.host]}, host {best.host + 1} of {len(hosts)}: {again}"


def _rests(target: TargetSpec, links: list[LinkState], observed: Observed, now: Now) -> bool:
    """Whether it is on demand and nobody wants it: it is not tried again, so nothing is wrong with it."""
    if target.on_demand is None or links:
        return False
    demand = observed.demand.get(target.name)
    return demand is None or (demand.held == 0 and demand.last_used + target.on_demand <= now.mono)


def _next_try(target: TargetSpec, tries: Tries, observed: Observed, now: Now) -> float:
    demand = observed.demand.get(target.name)
    held = demand is not None and demand.held > 0
    fingerprint = observed.fingerprints.get(target.name, "")
    return max(now.mono, next_link_try(tries, target.settings.reconnect, target.name, held, fingerprint))


# --- tunnels ----------------------------------------------------------------------------------------------------


def _off(tunnel: TunnelSpec, desired: Desired, *, draining: bool) -> Verdict:
    target = desired.targets.get(tunnel.target)
    why = tunnel.off or (target.off if target else "") or "expired"
    if draining:
        return _leaving(why)
    return Verdict(Phase.OFF, message=why)


def _leaving(why: str) -> Verdict:
    return Verdict(Phase.DRAINING, message=f"{why}: its last clients are leaving")


def _judge_tunnel(
    tunnel: TunnelSpec, socket: SocketState | None, tries: Tries | None, target: Verdict, observed: Observed
) -> Verdict:
    if tries is not None:
        if stands_by(tunnel, tries.last):
            message = "another holds the port; this one takes over when it is free"
            return Verdict(Phase.STANDBY, message=message, next_try=next_socket_try(tries, tunnel.id))
        due = next_socket_try(tries, tunnel.id)
        return Verdict(Phase.DOWN, tries.last.reason, tries.last.message, due, tries.failures)
    bound = socket is not None and socket.phase is SocketPhase.BOUND
    if target.phase is not Phase.UP and (bound or target.phase is not Phase.STANDBY):
        return target
    if socket is None or not bound:
        return Verdict(Phase.CONNECTING)
    trouble = _trouble(tunnel, observed)
    if trouble is not None and trouble.failure is not None:
        message = _asked_again(tunnel, trouble.failure)
        return Verdict(Phase.UNHEALTHY, trouble.failure.reason, message, failures=trouble.failures)
    doubts = [target.message] if target.is_trouble else [_doubt(tunnel.listen, socket.bound), socket.remark]
    return Verdict(Phase.UP, message="; ".join(filter(None, doubts)))


def stands_by(tunnel: TunnelSpec, failure: Failure) -> bool:
    """Whether that it may not listen is as it should be: another replica does, and this one is to wait for that."""
    return tunnel.policy.standby and failure.reason is Reason.REMOTE_PORT_IN_USE


def _asked_again(tunnel: TunnelSpec, failure: Failure) -> str:
    """What failed, and who tries it next; a password that cannot be read is looked at when its file changes."""
    if failure.reason is Reason.SECRET_UNREADABLE:
        return failure.message
    health = tunnel.policy.health
    again = f"Asked again every {health.interval:g} s." if health else "The next client tries it again."
    return f"{failure.message}{'' if failure.message.endswith('?') else '.'} {again}"


def _doubt(listen: Listen, bound: str) -> str:
    """What is not as it was asked for, or cannot be known, about the interfaces that a server listens on."""
    if not isinstance(listen, RemoteTcp):
        return ""
    if bound.startswith("*:"):
        return f"the server listens on every interface, not on {listen.host} alone: its GatewayPorts says so"
    if not _is_loopback(listen.host):
        return f"{listen.host} is asked for: sshd without GatewayPorts listens on loopback alone and does not say so"
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _trouble(tunnel: TunnelSpec, observed: Observed) -> Destination | None:
    """What speaks against its destination: the probe if there is one, else the clients' own failures."""
    health = tunnel.policy.health
    heard = observed.probes.get(tunnel.id) if health else observed.destinations.get(tunnel.id)
    enough = health.failure_threshold if health else UNHEALTHY_AFTER
    return heard if heard is not None and heard.failures >= enough else None
