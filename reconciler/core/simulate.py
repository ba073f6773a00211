"""The in-memory actuator: links, sockets and clients without a single packet.

`tunnels plan` runs the planner against a kind one, where everything succeeds at once (foresee.py). Tests run it
against an unkind one, where nothing goes on by itself: they choose what finishes, what fails and when. Both raise
ImpossibleError at a step which no world could carry out, so that every use of them checks the planner too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import assert_never

from reconciler.core import backoff
from reconciler.core.actions import Action, Assign, Close, Cut, Dial, Drain, Move, Open, Retire, Tune
from reconciler.core.addresses import Addresses, is_choice, is_remote
from reconciler.core.observed import (
    ClientInfo,
    Demand,
    Draining,
    Failure,
    FlowKey,
    FlowState,
    LinkPhase,
    LinkState,
    Now,
    Observed,
    Reason,
    SocketKey,
    SocketPhase,
    SocketState,
)
from reconciler.core.rules.admission import forbids
from reconciler.core.rules.origin import UNIX
from reconciler.core.spec import NOTHING, Desired, Endpoint, Listen, TunnelSpec


class ImpossibleError(Exception):
    """The planner asked for what cannot be done in the world as it is, or never came to an end."""


@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """A live client, and the socket that it came in by."""

    client_info: ClientInfo
    came_by: SocketKey


@dataclass(slots=True)
class _Clients:
    """The live clients of one flow."""

    all: list[Client]
    drain_timeout: float
    draining: Draining | None


class Simulator:
    """A world that can be told what happens in it.

    kind          what can finish does so at once; otherwise when `finish` or `settle` says so
    unreachable   SSH servers which cannot be reached
    busy          addresses which another program holds
    stamps        as in `Observed`
    touched       whom of the live clients the latest action touched; taking a deadline back touches none
    """

    def __init__(self, observed: Observed, now: Now, *, kind: bool) -> None:
        self.kind = kind
        self.unreachable: set[Endpoint] = set()
        self.busy: set[Listen] = set()
        self.fingerprints = dict(observed.fingerprints)
        self.touched: frozenset[Client] = frozenset()
        self._desired = NOTHING
        self._now = now
        self._links = {link.id: link for link in observed.links}
        self._last_id = max(self._links, default=0)
        self._choices = 0
        self._sockets = dict(observed.sockets)
        self._addresses = Addresses(key.listen for key in self._sockets)
        self._flows = _flows_of(observed)
        self._link_tries = dict(observed.link_tries)
        self._socket_tries = dict(observed.socket_tries)
        self._waiting: Counter[SocketKey] = Counter()  # clients who are held, by the socket they came in by
        self._last_used = {name: demand.last_used for name, demand in observed.demand.items()}
        self._held = {name: demand.held for name, demand in observed.demand.items() if demand.held}
        # In the order in which they began; a dict because a set has none.
        self._under_way: dict[int | SocketKey, None] = dict.fromkeys(
            [link.id for link in observed.links if link.phase is not LinkPhase.READY]
            + [key for key, socket in observed.sockets.items() if socket.phase is not SocketPhase.BOUND]
        )
        if kind:
            self.settle()

    # --- what the loop sees (ports.Actuator, ports.Clock) ---

    def set_desired(self, desired: Desired) -> None:
        """What is asked for now. The tries of a way that nobody asks for any more say nothing about the next edit."""
        self._desired = desired
        asked = {target.name: target.access for target in desired.targets.values()}
        self._link_tries = {name: tries for name, tries in self._link_tries.items() if asked.get(name) == tries.access}

    def now(self) -> Now:
        return self._now

    def observe(self) -> Observed:
        self._forget_what_is_over()
        return Observed(
            links=tuple(self._links.values()),
            sockets=MappingProxyType(dict(self._sockets)),
            flows=tuple(
                FlowState(
                    key, tuple(client.client_info for client in clients.all), clients.drain_timeout, clients.draining
                )
                for key, clients in self._flows.items()
            ),
            link_tries=MappingProxyType(dict(self._link_tries)),
            socket_tries=MappingProxyType(dict(self._socket_tries)),
            demand=MappingProxyType(self._demand()),
            fingerprints=MappingProxyType(dict(self.fingerprints)),
            destinations=MappingProxyType({}),
            probes=MappingProxyType({}),
            stalled=frozenset(),
        )

    def apply(self, action: Action) -> None:
        self.touched = frozenset(self._carry_out(action))
        if self.kind:
            self.settle()

    def _carry_out(self, action: Action) -> Iterable[Client]:
        """Returns whom it touches."""
        match action:
            case Dial():
                self._dial(action)
            case Retire():
                self._retire(action)
                return [client for flow, some in self._flows.items() if flow.link == action.link for client in some.all]
            case Tune(link=link, settings=settings):
                self._links[link] = replace(self._ready(link, action), settings=settings)
            case Open():
                self._open(action)
            case Close(key=key):
                self._begin(replace(self._live(key, action), phase=SocketPhase.CLOSING))
            case Assign():
                return self._assign(action)
            case Move():
                self._move(action)
            case Drain(flow=flow, draining=draining):
                clients = self._clients(flow, action)
                clients.draining = draining
                return clients.all if draining is not None else ()
            case Cut(flow=flow):
                clients = self._clients(flow, action)
                del self._flows[flow]
                return clients.all
            case _:
                assert_never(action)
        return ()

    def check(self) -> None:
        """Raise ImpossibleError unless what holds between two passes does."""
        owners = Counter(s.owner.id for s in self._sockets.values() if s.phase is not SocketPhase.CLOSING)
        for owner, count in owners.items():
            _require(count == 1, f"one socket for one tunnel, not {count}", owner)
        for socket in self._sockets.values():
            fits = socket.phase is SocketPhase.CLOSING or socket.owner.listen == socket.key.listen
            _require(fits, "a socket's owner is a tunnel that asks for it", socket)

    # --- what happens in it ---

    def elapse(self, seconds: float) -> None:
        self._now = Now(self._now.mono + seconds, self._now.wall + seconds)

    def jump(self, seconds: float) -> None:
        """The wall clock is set, as by NTP or after a laptop slept."""
        self._now = Now(self._now.mono, self._now.wall + seconds)

    def under_way(self) -> tuple[int | SocketKey, ...]:
        """The links and sockets that could `finish` now."""
        return tuple(what for what in self._under_way if isinstance(what, SocketKey) or self._can_finish(what))

    def settle(self) -> None:
        """All that can finish does, well or (unreachable, busy) not."""
        while ready := self.under_way():
            for what in ready:
                if what in self._under_way:
                    self.finish(what)

    def finish(self, what: int | SocketKey, failure: Failure | None = None) -> None:
        """A dial, an opening or an end comes to its end; `failure` makes a dial or an opening fail."""
        del self._under_way[what]
        if isinstance(what, SocketKey):
            self._finish_socket(self._sockets[what], failure)
        elif self._links[what].phase is LinkPhase.DIALING:
            self._finish_dial(self._links[what], failure)
        else:
            del self._links[what]

    def lose(self, link_id: int, failure: Failure) -> None:
        """A connection breaks: its clients and its listeners on the server go with it."""
        link = self._links.pop(link_id)
        self._under_way.pop(link_id, None)
        for flow in [key for key in self._flows if key.link == link_id]:
            self._last_used[link.target] = self._now.mono
            del self._flows[flow]
        for socket in [socket for socket in self._sockets.values() if socket.link == link_id]:
            self._gone(socket.key)
        target = self._desired.targets.get(link.target)
        # The loss of a link that was to be replaced says nothing about the way to its replacement.
        wrong = target is None or target.access != link.access or not link.trusted
        if wrong or link.phase is LinkPhase.RETIRING:
            return
        previous, now, fingerprint = (
            self._link_tries.get(link.target),
            self._now.mono,
            self.fingerprints.get(link.target, ""),
        )
        if link.phase is LinkPhase.READY:
            tries = backoff.lost(previous, failure, now, now - link.since, link.access, fingerprint)
        else:
            tries = backoff.failed(previous, failure, now, link.access, fingerprint)
        self._link_tries[link.target] = tries

    def distrust(self, link_id: int) -> None:
        """Its host key is not among the known ones any more."""
        self._links[link_id] = replace(self._links[link_id], trusted=False)

    def trust_again(self, link_id: int) -> None:
        """Its host key is among the known ones again."""
        self._links[link_id] = replace(self._links[link_id], trusted=True)

    def arrive(self, tunnel_id: str, client_info: ClientInfo | None = None) -> FlowKey | None:
        """A client (one who may come, if it is not said who) comes to a tunnel's socket.

        None: it is held, or refused as nothing listens.
        """
        for socket in self._sockets.values():
            if socket.owner.id == tunnel_id and socket.phase is SocketPhase.BOUND:
                return self._accept(socket, client_info)
        return None

    def leave(self, flow: FlowKey) -> None:
        """One of these clients goes."""
        self._leave(flow, self._flows[flow].all[:1])

    def give_up(self) -> None:
        """All clients who are held go away."""
        self._waiting.clear()

    # --- links ---

    def _dial(self, dial: Dial) -> None:
        target = dial.target
        _require(self._desired.targets.get(target.name) == target and not target.off, "a wanted target", dial)
        _require(0 < dial.limit <= len(target.access.hop.hosts), "a limit within the hosts", dial)
        dialing = [k for k in self._links.values() if k.target == target.name and k.phase is LinkPhase.DIALING]
        # Beside those to all acceptable hosts there may be as many to preferred ones only.
        _require(len(dialing) < 2 * target.connections, "no more dials than connections", dial)
        self._last_id += 1
        self._under_way[self._last_id] = None
        self._links[self._last_id] = LinkState(
            id=self._last_id,
            target=target.name,
            access=target.access,
            settings=target.settings,
            limit=dial.limit,
            host=-1,
            preferred_host_failure=None,
            phase=LinkPhase.DIALING,
            since=self._now.mono,
            trusted=True,
        )

    def _retire(self, retire: Retire) -> None:
        link = self._links.get(retire.link)
        if link is None or link.phase is LinkPhase.RETIRING:
            raise ImpossibleError(f"a link that is there and not retiring: {retire}")
        self._links[link.id] = replace(link, phase=LinkPhase.RETIRING, since=self._now.mono)
        self._under_way[link.id] = None

    def _finish_dial(self, link: LinkState, failure: Failure | None) -> None:
        hosts = link.access.hop.hosts[: link.limit]
        reached = [index for index, host in enumerate(hosts) if host not in self.unreachable]
        if failure is None and not reached:
            failure = Failure(Reason.UNREACHABLE, "no host of it can be reached")
        if failure is not None:
            self.lose(link.id, failure)
            return
        over = Failure(Reason.UNREACHABLE, "it cannot be reached") if reached[0] else None
        self._links[link.id] = replace(
            link, host=reached[0], preferred_host_failure=over, phase=LinkPhase.READY, since=self._now.mono
        )
        self._admit()

    def _can_finish(self, link_id: int) -> bool:
        """A dial can; a retiring link only when nobody uses it."""
        if self._links[link_id].phase is LinkPhase.DIALING:
            return True
        return all(flow.link != link_id for flow in self._flows) and all(
            socket.link != link_id for socket in self._sockets.values()
        )

    def _ready(self, link_id: int, action: Action) -> LinkState:
        link = self._links.get(link_id)
        if link is None or link.phase is not LinkPhase.READY:
            raise ImpossibleError(f"a link that is ready: {action}")
        return link

    def _forget_what_is_over(self) -> None:
        for link in self._links.values():
            tries = self._link_tries.get(link.target)
            ready = link.phase is LinkPhase.READY
            if ready and tries is not None and backoff.is_over(tries, link.since, self._now.mono):
                del self._link_tries[link.target]

    # --- sockets ---

    def _open(self, step: Open) -> None:
        _require(step.key not in self._sockets, "a socket that is not there yet", step)
        _require(not self._addresses.meets(step.key.listen), "an address that is free", step)
        _require(
            step.key.listen == step.tunnel.listen and self._is_asked_for(step.tunnel), "a tunnel wanted there", step
        )
        _require(
            is_remote(step.key.listen) == (step.link is not None),
            "a link for a remote listener, and for no other",
            step,
        )
        if step.link is not None:
            _require(self._ready(step.link, step).target == step.tunnel.target, "a link of its target", step)
        self._addresses.add(step.key.listen)
        self._begin(SocketState(step.key, step.tunnel, SocketPhase.OPENING, step.link, ""))

    def _assign(self, step: Assign) -> list[Client]:
        """Returns those whom the tunnel's rules cut."""
        socket, tunnel = self._live(step.key, step), step.tunnel
        _require(step.key.listen == tunnel.listen and self._is_asked_for(tunnel), "a tunnel wanted there", step)
        self._sockets[step.key] = replace(socket, owner=tunnel)
        if socket.owner.id != tunnel.id:
            for flow in [flow for flow in self._flows if flow.tunnel == socket.owner.id and flow.route == tunnel.route]:
                self._rename(flow, tunnel, step.key)
        cut: list[Client] = []
        for flow in [flow for flow in self._flows if flow.tunnel == tunnel.id]:
            clients = self._flows[flow]
            clients.drain_timeout = tunnel.policy.drain_timeout
            forbidden = [client for client in clients.all if forbids(tunnel, client.client_info)]
            self._leave(flow, forbidden)
            cut += forbidden
        return cut

    def _rename(self, flow: FlowKey, tunnel: TunnelSpec, key: SocketKey) -> None:
        """The clients that came in by this socket are the new owner's now."""
        old = self._flows[flow]
        moving = [client for client in old.all if client.came_by == key]
        if not moving:
            return
        new = self._flows.setdefault(
            replace(flow, tunnel=tunnel.id), _Clients([], tunnel.policy.drain_timeout, old.draining)
        )
        new.all += moving
        old.all = [client for client in old.all if client.came_by != key]
        if not old.all:
            del self._flows[flow]

    def _move(self, step: Move) -> None:
        socket, link = self._live(step.key, step), self._ready(step.link, step)
        bound = socket.phase is SocketPhase.BOUND
        _require(bound and socket.link not in (None, link.id), "a remote listener, to another link", step)
        _require(link.target == socket.owner.target, "a link of its target", step)
        self._begin(replace(socket, phase=SocketPhase.OPENING, link=link.id))

    def _begin(self, socket: SocketState) -> None:
        self._sockets[socket.key] = socket
        self._under_way[socket.key] = None

    def _finish_socket(self, socket: SocketState, failure: Failure | None) -> None:
        key = socket.key
        if socket.phase is SocketPhase.CLOSING:
            self._gone(key)
            return
        if failure is None and key.listen in self.busy:
            reason = Reason.LOCAL_PORT_IN_USE if socket.link is None else Reason.REMOTE_PORT_IN_USE
            failure = Failure(reason, "another program listens there")
        if failure is not None:
            self._gone(key)
            tries = backoff.failed(self._socket_tries.get(key), failure, self._now.mono, None, "")
            self._socket_tries[key] = tries
            return
        self._socket_tries.pop(key, None)
        bound = socket.bound or self._address(key.listen)
        self._sockets[key] = replace(socket, phase=SocketPhase.BOUND, bound=bound)

    def _address(self, listen: Listen) -> str:
        """Where it is bound. Each chosen port is another one; which number it is does not matter here."""
        if not is_choice(listen):
            return str(listen)
        self._choices += 1
        return f"{listen} chosen as number {self._choices}"

    def _gone(self, key: SocketKey) -> None:
        del self._sockets[key]
        del self._waiting[key]
        self._under_way.pop(key, None)
        self._addresses.remove(key.listen)

    def _live(self, key: SocketKey, action: Action) -> SocketState:
        socket = self._sockets.get(key)
        if socket is None or socket.phase is SocketPhase.CLOSING:
            raise ImpossibleError(f"a socket that is there and not closing: {action}")
        return socket

    def _is_asked_for(self, tunnel: TunnelSpec) -> bool:
        return not tunnel.off and self._desired.tunnels.get(tunnel.id) == tunnel

    # --- clients ---

    def _accept(self, socket: SocketState, client_info: ClientInfo | None = None) -> FlowKey | None:
        owner = socket.owner
        self._last_used[owner.target] = self._now.mono
        links = [
            link.id
            for link in self._links.values()
            if (link.id == socket.link if socket.link is not None else link.phase is LinkPhase.READY)
            and link.target == owner.target
        ]
        if not links:
            self._waiting[socket.key] += 1
            return None
        load: Counter[int] = Counter()
        for flow, clients in self._flows.items():
            load[flow.link] += len(clients.all)
        key = FlowKey(owner.id, socket.key.listen, owner.route, min(links, key=lambda link: (load[link], link)))
        clients = self._flows.setdefault(key, _Clients([], owner.policy.drain_timeout, None))
        clients.all.append(Client(client_info or _guest(owner), socket.key))
        return key

    def _leave(self, flow: FlowKey, leaving: Collection[Client]) -> None:
        link = self._links.get(flow.link)
        if leaving and link is not None:
            self._last_used[link.target] = self._now.mono
        clients, gone = self._flows[flow], frozenset(leaving)
        clients.all = [client for client in clients.all if client not in gone]
        if not clients.all:
            del self._flows[flow]

    def _admit(self) -> None:
        """A link is up: those who were held try again."""
        waiting, self._waiting = self._waiting, Counter()
        for key in waiting.elements():
            self._accept(self._sockets[key])

    def _demand(self) -> dict[str, Demand]:
        held = Counter(self._held)
        for key, count in self._waiting.items():
            held[self._sockets[key].owner.target] += count
        return {name: Demand(held[name], at) for name, at in self._last_used.items()}

    def _clients(self, flow: FlowKey, action: Action) -> _Clients:
        clients = self._flows.get(flow)
        if clients is None:
            raise ImpossibleError(f"clients that are there: {action}")
        return clients


def _guest(tunnel: TunnelSpec) -> ClientInfo:
    """A client that every tunnel admits: that of a unix socket."""
    return ClientInfo(UNIX, str(tunnel.route), None, next(iter(tunnel.policy.users), None))


def _flows_of(observed: Observed) -> dict[FlowKey, _Clients]:
    """The clients of an observed world. Of several sockets with the same address (a chosen port) it is not told which
    one they came in by: it was most likely their tunnel's.
    """
    entrances: dict[tuple[Listen, str], SocketKey] = {}
    for key, socket in observed.sockets.items():
        entrances[key.listen, socket.owner.id] = key
    flows = {}
    for flow in observed.flows:
        came_by = entrances.get((flow.key.listen, flow.key.tunnel), SocketKey(flow.key.listen, 0))
        clients = [Client(client_info, came_by) for client_info in flow.visitors]
        flows[flow.key] = _Clients(clients, flow.drain_timeout, flow.draining)
    return flows


def _require(holds: bool, what: str, where: object) -> None:
    if not holds:
        raise ImpossibleError(f"{what}: {where}")
