"""The status of each target and tunnel: phase, reason, message and next try, from desired and observed. Pure.

The log, `status`, the metrics and `/readyz` all use this one result, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from reconciler.core.addresses import is_any, is_loopback
from reconciler.core.backoff import NextTry, Wait, next_dial, next_fault_try, next_socket_try
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
from reconciler.core.off import Off, OffCause
from reconciler.core.plan import why_off
from reconciler.core.planner.links import FAIL_BACK_EVERY
from reconciler.core.spec import Desired, Listen, RemoteTcp, TargetSpec, TunnelSpec

_NONE_BROKEN: Mapping[str, str] = MappingProxyType({})
# Follows the message of a failure with `needs_action`, where the text is for people.
NEEDS_ACTION_TEXT = "Needs action: retrying fails until this is fixed."
UNHEALTHY_AFTER = 3  # dial failures in a row, for a tunnel without a probe


@dataclass(frozen=True, slots=True)
class Verdict:
    """A phase, with the reason and message for any problem.

    next_try        None if none is due
    failures        how many in a row
    off             why it is off, or will be when its clients have drained
    ends_by_itself  the problem ends at `next_try` without an action of a person
    """

    phase: Phase
    reason: Reason | None = None
    message: str = ""
    next_try: NextTry | None = None
    failures: int = 0
    off: Off | None = None
    ends_by_itself: bool = False

    @property
    def needs_action(self) -> bool:
        return self.reason is not None and not self.ends_by_itself and Failure(self.reason, "").needs_action

    @property
    def is_trouble(self) -> bool:
        """Return True if something fails: the subject is not up, or its connection cannot be replaced."""
        return self.reason is not None


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """The status of a target. `host` is the host it is connected to, "" if none; `links` are its ready links."""

    name: str
    verdict: Verdict
    host: str
    links: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TunnelStatus:
    """The status of a tunnel. `bound` is its bound address, or the configured one while it is not bound."""

    id: str
    spec: TunnelSpec
    verdict: Verdict
    bound: str


@dataclass(frozen=True, slots=True)
class Status:
    """The status of all targets and tunnels, in file order. `leaving` are removed tunnels that still have clients."""

    targets: tuple[TargetStatus, ...]
    tunnels: tuple[TunnelStatus, ...]
    leaving: tuple[TunnelStatus, ...] = ()


def unsettled_targets(desired: Desired, observed: Observed) -> set[str]:
    """Return the targets with a first attempt in progress. Retries, probes and draining clients do not count."""
    unsettled = {one.owner.target for one in observed.sockets.values() if one.phase is not SocketPhase.BOUND}
    for link in observed.links:
        if link.phase is LinkPhase.DIALING:
            tries = observed.link_tries.get(link.target)
            target = desired.targets.get(link.target)
            if target is None or tries is None or tries.access != target.access:
                unsettled.add(link.target)
    return unsettled


def make_status(
    desired: Desired,
    observed: Observed,
    now: Now,
    broken: Mapping[str, str] = _NONE_BROKEN,
    removed: Iterable[TunnelSpec] = (),
    gone: str = "removed",
) -> Status:
    """Return the status of every target and tunnel.

    broken    targets and tunnels (by id) that an unset variable keeps off, each with its message
    removed   tunnels that are no longer in the configuration
    gone      why they are not in it, for their message
    """
    by_target: dict[str, list[LinkState]] = {}
    for link in observed.links:
        by_target.setdefault(link.target, []).append(link)
    offs = {tunnel.id: why_off(tunnel, desired, now.wall) for tunnel in desired.tunnels.values()}
    needed = {tunnel.target for tunnel in desired.tunnels.values() if offs[tunnel.id] is None}
    targets = {
        target.name: TargetStatus(target.name, _broken(broken[target.name]), "", ())
        if target.name in broken
        else _faulty(
            _judge_target(target, by_target.get(target.name, []), observed, now, is_needed=target.name in needed),
            target.name,
            observed,
        )
        for target in desired.targets.values()
    }
    # The address is part of the key: a tunnel's socket from before an edit says nothing about the new one.
    sockets = {(socket.owner.id, socket.key.listen): socket for socket in observed.sockets.values()}
    busy = {flow.key.tunnel for flow in observed.flows}
    failures = {key.listen: tries for key, tries in observed.socket_tries.items()}
    tunnels = []
    for tunnel in desired.tunnels.values():
        socket = sockets.get((tunnel.id, tunnel.listen))
        # A retry in progress is no success: the last failure is shown until the socket is bound.
        tries = failures.get(tunnel.listen) if socket is None or socket.phase is SocketPhase.OPENING else None
        off = offs[tunnel.id]
        if (why := _why_broken(tunnel, broken)) is not None:
            verdict = _broken(why)
        elif off is not None:
            verdict = _leaving(str(off), off) if tunnel.id in busy else _off(off)
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


def _why_broken(tunnel: TunnelSpec, broken: Mapping[str, str]) -> str | None:
    """Return why the tunnel or its target is broken; None if neither is, or if something else keeps the tunnel off."""
    if tunnel.off is None:
        return broken.get(tunnel.target)
    return broken.get(tunnel.id) if tunnel.off.cause is OffCause.UNSET_VARIABLE else None


def _broken(message: str) -> Verdict:
    return Verdict(Phase.DOWN, Reason.SECRET_UNREADABLE, message)


def _faulty(status: TargetStatus, name: str, observed: Observed) -> TargetStatus:
    tries = observed.faults.get(name)
    return status if tries is None else replace(status, verdict=_with_fault(status.verdict, tries))


def _with_fault(verdict: Verdict, tries: Tries) -> Verdict:
    """Return the verdict of a target or tunnel for which an action raised an internal error.

    A subject that is up stays up in its previous form; one that was coming up is down. Any other failure takes
    precedence, because the operator can act on it.
    """
    if verdict.is_trouble:
        return verdict
    is_coming_up = verdict.phase in (Phase.PENDING, Phase.CONNECTING)
    return Verdict(
        Phase.DOWN if is_coming_up else verdict.phase,
        tries.last.reason,
        f"{verdict.message}; {tries.last.message}" if verdict.message else tries.last.message,
        NextTry(next_fault_try(tries), Wait.INTERNAL),
        tries.failures,
    )


# --- targets ----------------------------------------------------------------------------------------------------


def _judge_target(
    target: TargetSpec, links: list[LinkState], observed: Observed, now: Now, *, is_needed: bool
) -> TargetStatus:
    ready = [link for link in links if link.phase is LinkPhase.READY]
    live = [link for link in ready if link.id not in observed.stalled]
    host = str(ready[0].access.hop.hosts[ready[0].host]) if ready else ""
    verdict = _target_verdict(target, links, ready, live, observed, now)
    if not is_needed and not ready and target.off is None:  # it is not dialled, whatever failed before
        verdict = Verdict(Phase.OFF, message="none of its tunnels needs a connection")
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
        tries = None  # the failures belong to an access that is no longer configured
    if target.off is not None:
        return _off(target.off)
    if live:
        right = [link for link in live if link.access == target.access and link.trusted]
        if right or tries is None:
            lost = observed.repeated_losses.get(target.name)
            notes = [_fallback_message(right, tries), lost.message if lost is not None else "", _remark(right)]
            return Verdict(Phase.UP, message="; ".join(filter(None, notes)))
        return Verdict(
            Phase.UP,
            tries.last.reason,
            f"still using the old connection, the new one failed: {tries.last.message}",
            _next_try(target, tries, observed, now),
            tries.failures,
            ends_by_itself=tries.last.ends_at is not None,
        )
    if ready:
        return _in_doubt(target, tries, observed, now)
    if tries is not None and not (_is_idle(target, links, observed, now) and not tries.last.needs_action):
        due = _next_try(target, tries, observed, now)
        return Verdict(
            Phase.DOWN,
            tries.last.reason,
            tries.last.message,
            due,
            tries.failures,
            ends_by_itself=tries.last.ends_at is not None,
        )
    if any(link.phase is LinkPhase.DIALING for link in links):
        return Verdict(Phase.CONNECTING)
    if target.on_demand is not None:
        last = f"; last failure: {tries.last.message}" if tries is not None else ""
        return Verdict(Phase.STANDBY, message=f"connects when the first client arrives{last}")
    return Verdict(Phase.PENDING)


def _in_doubt(target: TargetSpec, tries: Tries | None, observed: Observed, now: Now) -> Verdict:
    """Return the verdict of a target if nothing is received on any of its connections."""
    message = "no data received from the server: new clients wait until it answers, or another connection is made"
    if tries is None:
        return Verdict(Phase.DOWN, Reason.KEEPALIVE, message)
    message = f"{message}; the other connection failed: {tries.last.message}"
    return Verdict(Phase.DOWN, Reason.KEEPALIVE, message, _next_try(target, tries, observed, now), tries.failures)


def _fallback_message(links: list[LinkState], tries: Tries | None) -> str:
    """Return the message of a target that is not connected to its preferred host, "" if it is."""
    best = min(links, key=lambda link: link.host, default=None)
    if best is None or best.host == 0:
        return ""
    hosts = best.access.hop.hosts
    preferred = str(hosts[0]) if best.host == 1 else "the hosts before it"
    last = tries.last if tries is not None and tries.at > best.since else best.preferred_host_failure
    retry = f"retrying {preferred} every {FAIL_BACK_EVERY:g} s{f'; last failure: {last.message}' if last else ''}"
    return f"on {hosts[best.host]}, host {best.host + 1} of {len(hosts)}: {retry}"


def _remark(links: list[LinkState]) -> str:
    """Return what the server said at the latest login, "" if nothing."""
    latest = max(links, key=lambda link: link.since, default=None)
    return f"the server says {latest.remark}" if latest is not None and latest.remark else ""


def _is_idle(target: TargetSpec, links: list[LinkState], observed: Observed, now: Now) -> bool:
    """Return True if the target is on demand and has no demand. It is not retried then, so it is not down."""
    if target.on_demand is None or links:
        return False
    demand = observed.demand.get(target.name)
    return demand is None or (demand.held == 0 and demand.last_used + target.on_demand <= now.mono)


def _next_try(target: TargetSpec, tries: Tries, observed: Observed, now: Now) -> NextTry:
    demand = observed.demand.get(target.name)
    held = demand is not None and demand.held > 0
    fingerprint = observed.fingerprints.get(target.name, "")
    due = next_dial(tries, target.settings.reconnect, target.name, held, fingerprint, now)
    return NextTry(max(now.mono, due.at), due.wait)


# --- tunnels ----------------------------------------------------------------------------------------------------


def _off(off: Off) -> Verdict:
    return Verdict(Phase.OFF, message=str(off), off=off)


def _leaving(why: str, off: Off | None = None) -> Verdict:
    return Verdict(Phase.DRAINING, message=f"{why}: waiting for its last clients to finish", off=off)


def _judge_tunnel(
    tunnel: TunnelSpec, socket: SocketState | None, tries: Tries | None, target: Verdict, observed: Observed
) -> Verdict:
    if tries is not None:
        due = NextTry(next_socket_try(tries, tunnel.id), Wait.LISTENER)
        if stands_by(tunnel, tries.last):
            message = "another replica holds the port: this one takes over when the port is free"
            return Verdict(Phase.STANDBY, message=message, next_try=due)
        return Verdict(Phase.DOWN, tries.last.reason, tries.last.message, due, tries.failures)
    bound = socket is not None and socket.phase is SocketPhase.BOUND
    if target.phase is not Phase.UP and (bound or target.phase is not Phase.STANDBY):
        return target
    if socket is None or not bound:
        return Verdict(Phase.CONNECTING)
    unhealthy = _unhealthy_destination(tunnel, observed)
    if unhealthy is not None and unhealthy.failure is not None:
        message = _with_retry(tunnel, unhealthy.failure)
        return Verdict(Phase.UNHEALTHY, unhealthy.failure.reason, message, failures=unhealthy.failures)
    notes = [target.message] if target.is_trouble else [_interface_note(tunnel.listen, socket.bound), socket.remark]
    return Verdict(Phase.UP, message="; ".join(filter(None, notes)))


def stands_by(tunnel: TunnelSpec, failure: Failure) -> bool:
    """Return True if the failure is the expected state of a standby tunnel: another replica holds its port."""
    return tunnel.policy.standby and failure.reason is Reason.REMOTE_PORT_IN_USE


def _with_retry(tunnel: TunnelSpec, failure: Failure) -> str:
    """Return the failure's message with what retries it. An unreadable secret is retried when its file changes."""
    if failure.reason is Reason.SECRET_UNREADABLE:
        return failure.message
    health = tunnel.policy.health
    retry = f"probed every {health.interval:g} s" if health else "retried with the next client"
    return f"{failure.message} ({retry})"


_NARROWED = "sshd without GatewayPorts listens on loopback only, without an error (`tunnels diagnose` finds out)"


def _interface_note(listen: Listen, bound: str) -> str:
    """Return a note if the server listens, or may listen, on other interfaces than configured; "" otherwise."""
    if not isinstance(listen, RemoteTcp):
        return ""
    if is_any(listen.host):
        return f"all interfaces are requested, which is not confirmed: {_NARROWED}"
    if bound.startswith("*:"):
        return f"the server listens on all interfaces, not only on {listen.host}: check GatewayPorts in its sshd_config"
    if not is_loopback(listen.host):
        return f"{listen.host} is not confirmed: {_NARROWED}"
    return ""


def _unhealthy_destination(tunnel: TunnelSpec, observed: Observed) -> Destination | None:
    """Return the state of a destination that failed often enough: by its probe, or without one by client dials."""
    health = tunnel.policy.health
    destination = observed.probes.get(tunnel.id) if health else observed.destinations.get(tunnel.id)
    threshold = health.failure_threshold if health else UNHEALTHY_AFTER
    return destination if destination is not None and destination.failures >= threshold else None
