"""One record for each target and each tunnel: everything known about it that outlives a link, a socket or a probe.

Owns the records. `Records` creates one when its target or tunnel is first named, and drops it in `drop_unused`. Input:
changes by the parts of the actuator, each to its own fields. Output: the records, for these parts, the observed state
and the snapshot. Links and listeners have records of their own, because the planner names them by number and address.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Collection, Container
from dataclasses import dataclass, field

from reconciler.core.histogram import Histogram
from reconciler.core.losses import REPEATED, Loss
from reconciler.core.observed import ClientFailure, ClientResult, Destination, Reason, Tries
from reconciler.core.rules.guess_limiter import GuessLimiter
from reconciler.core.spec import Desired, TunnelSpec
from reconciler.core.subject import Subject
from reconciler.core.token_bucket import Bucket

# Seconds. A login takes 50 ms on loopback and seconds over a satellite; a channel takes a round trip and a connect.
CONNECT_BOUNDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
DIAL_BOUNDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


@dataclass(slots=True, eq=False)
class TargetRecord:
    """What is known about one target.

    failures, connects, dials, probes   counters of the metrics
    certificate_expires   of the certificate that logged in last (Unix time)
    tries                 the failed tries to connect since the target was last up for long enough
    losses                its last lost connections, oldest first
    fingerprint           of the files that it names, now; "" until they are checked, and while there are no tries
    waiting               completed when a link may have become usable, oldest first (an ordered set)
    restarted_at          when a failing probe last restarted it (monotonic)
    words_logged          the texts that the server sent during logins, and that were logged last
    held                  how many clients wait for a usable link
    last_used             when a client was last present (monotonic); -inf for never
    """

    name: str
    failures: Counter[Reason] = field(default_factory=Counter)
    connects: Histogram = field(default_factory=lambda: Histogram(CONNECT_BOUNDS))
    dials: Histogram = field(default_factory=lambda: Histogram(DIAL_BOUNDS))
    probes: Histogram = field(default_factory=lambda: Histogram(DIAL_BOUNDS))
    certificate_expires: float | None = None
    tries: Tries | None = None
    losses: deque[Loss] = field(default_factory=lambda: deque(maxlen=REPEATED))
    fingerprint: str = ""
    waiting: dict[asyncio.Future[None], None] = field(default_factory=dict)
    restarted_at: float = float("-inf")
    words_logged: deque[str] = field(default_factory=lambda: deque(maxlen=16))
    held: int = 0
    last_used: float = float("-inf")

    def clear_tries(self) -> None:
        self.tries = None
        self.fingerprint = ""


@dataclass(slots=True, eq=False)
class TunnelClients:
    """The clients of one tunnel: counters, the state of its destination, and the limits that they share.

    sent, received   bytes towards the SSH server and from it
    active           how many clients have a link
    held             how many clients wait for one
    results          how many attempts to connect ended with each result
    last_failure     the last client that was refused or not connected, None for none
    destination      the last dial of its destination, if that failed; or why its users' passwords cannot be read
    guesses          limits the password guesses
    """

    sent: int = 0
    received: int = 0
    active: int = 0
    held: int = 0
    results: Counter[ClientResult] = field(default_factory=Counter)
    last_failure: ClientFailure | None = None
    destination: Destination | None = None
    guesses: GuessLimiter = field(default_factory=GuessLimiter)
    _buckets: tuple[Bucket, Bucket] | None = None

    def throttles(self, rate: int) -> tuple[Bucket, Bucket] | tuple[None, None]:
        """Return the buckets towards the server and from it, which its clients share, at this rate; None each for 0."""
        if not rate:
            self._buckets = None
            return None, None
        if self._buckets is None:
            self._buckets = (Bucket(rate, time.monotonic), Bucket(rate, time.monotonic))
        for bucket in self._buckets:
            bucket.rate = rate
        return self._buckets


@dataclass(slots=True, eq=False)
class RunningProbe:
    """The probe of a tunnel, as configured in `tunnel`, and its last result: None before the first."""

    tunnel: TunnelSpec
    task: asyncio.Task[None] | None = None
    result: Destination | None = None


@dataclass(slots=True, eq=False)
class TunnelRecord:
    """What is known about one tunnel.

    clients        its clients
    failures       of its socket, destination and probe, for the metrics. Failures of its link are its target's
    assigned_port  the port that was last assigned to it, 0 for none yet
    cancel_tries   a cancel of its listener on the server that an internal error delays
    probe          its probe, while it runs
    transferred    the bytes of all clients of its target when its probe last failed
    """

    id: str
    clients: TunnelClients = field(default_factory=TunnelClients)
    failures: Counter[Reason] = field(default_factory=Counter)
    assigned_port: int = 0
    cancel_tries: Tries | None = None
    probe: RunningProbe | None = None
    transferred: int | None = None


class Records:
    """The records of all targets and tunnels."""

    def __init__(self) -> None:
        self._targets: dict[str, TargetRecord] = {}
        self._tunnels: dict[str, TunnelRecord] = {}

    def target(self, name: str) -> TargetRecord:
        record = self._targets.get(name)
        if record is None:
            record = self._targets[name] = TargetRecord(name)
        return record

    def tunnel(self, tunnel_id: str) -> TunnelRecord:
        record = self._tunnels.get(tunnel_id)
        if record is None:
            record = self._tunnels[tunnel_id] = TunnelRecord(tunnel_id)
        return record

    def targets(self) -> Collection[TargetRecord]:
        return self._targets.values()

    def tunnels(self) -> Collection[TunnelRecord]:
        return self._tunnels.values()

    def known_tunnel(self, tunnel_id: str) -> TunnelRecord | None:
        """Return the record of a tunnel that may have been removed; None if it has been."""
        return self._tunnels.get(tunnel_id)

    def drop_unused(self, desired: Desired, linked: Container[str]) -> None:
        """Drop the records of targets and tunnels that are not desired, and of which nothing is left.

        `linked`: the targets that have links.
        """
        of_clients = set[str]()
        for tunnel in tuple(self._tunnels.values()):
            has_clients = tunnel.clients.active or tunnel.clients.held
            if has_clients:
                of_clients.add(Subject("tunnel", tunnel.id).target)
            elif not (tunnel.id in desired.tunnels or tunnel.probe is not None or tunnel.cancel_tries is not None):
                del self._tunnels[tunnel.id]
        for target in tuple(self._targets.values()):
            name = target.name
            if not (name in desired.targets or name in linked or name in of_clients or target.waiting or target.held):
                del self._targets[name]
