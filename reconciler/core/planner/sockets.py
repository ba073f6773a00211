"""Plans the listening sockets: which to close, assign to another tunnel, move to another link, and open."""

from __future__ import annotations

from dataclasses import dataclass, field

from reconciler.core.actions import ASKED_FOR, Assign, Close, Move, Open
from reconciler.core.addresses import Addresses, is_choice, is_remote
from reconciler.core.backoff import next_socket_try
from reconciler.core.observed import LinkState, Observed, SocketKey, SocketPhase, SocketState
from reconciler.core.planner.draft import Draft
from reconciler.core.spec import Desired, Listen, Route, TunnelSpec


@dataclass(slots=True)
class Assigned:
    """The tunnels that this plan assigns a socket to, and their routes.

    The owner of the clients of such a tunnel or route may change with the assignment, so this plan skips them.
    """

    tunnels: set[str] = field(default_factory=set)
    routes: set[Route] = field(default_factory=set)


def plan_sockets(
    desired: Desired,
    observed: Observed,
    wanted: dict[str, TunnelSpec],
    links: dict[str, list[LinkState]],
    draft: Draft,
) -> Assigned:
    """Plan to close unwanted sockets, assign, move, and open missing ones. Return the assignments."""
    settled = set()  # ids of tunnels that own their socket already
    free: dict[SocketKey, SocketState] = {}  # sockets that no unchanged tunnel owns
    for key, socket in observed.sockets.items():
        tunnel = wanted.get(socket.owner.id)
        if (tunnel is socket.owner or tunnel == socket.owner) and socket.phase is not SocketPhase.CLOSING:
            settled.add(socket.owner.id)
            _follow_link(socket, links, draft)
        else:
            free[key] = socket
    assigned = Assigned()
    if len(settled) == len(wanted) and not free:
        return assigned
    missing = []
    # Sorted, so that the order of the file does not decide which of several equal sockets a tunnel gets.
    for tunnel in sorted((t for t in wanted.values() if t.id not in settled), key=lambda tunnel: tunnel.id):
        found = _claim(tunnel, free, desired)
        if found is None:
            missing.append(tunnel)
        elif found.phase is not SocketPhase.CLOSING:
            renamed = found.owner.id != tunnel.id
            why = f"it takes over the listener of {found.owner.id}" if renamed else "its settings changed"
            draft.change.append(Assign(found.key, tunnel, why))
            assigned.tunnels.add(tunnel.id)
            assigned.routes.add(tunnel.route)
            _follow_link(found, links, draft)
    for socket in free.values():
        if socket.phase is not SocketPhase.CLOSING:
            draft.stop.append(Close(socket.key, socket.owner.id, "no tunnel listens there any more"))
    _open_missing(missing, observed, links, draft)
    return assigned


def _follow_link(socket: SocketState, links: dict[str, list[LinkState]], draft: Draft) -> None:
    """Move a listener on the server to a link that stays, if its own link does not."""
    if socket.link is None or socket.phase is not SocketPhase.BOUND:
        return
    staying = links.get(socket.owner.target, [])
    if staying and all(link.id != socket.link for link in staying):
        draft.change.append(Move(socket.key, socket.owner.id, staying[0].id, "its connection was replaced"))


def _claim(tunnel: TunnelSpec, free: dict[SocketKey, SocketState], desired: Desired) -> SocketState | None:
    """Remove the socket that this tunnel can take over from `free`, and return it."""
    if not is_choice(tunnel.listen):
        return free.pop(SocketKey(tunnel.listen, 0), None)
    # A tunnel with a chosen port keeps its own socket. Otherwise it takes one with the same route whose owner no longer
    # wants it: the tunnel was renamed.
    equal = [
        socket
        for socket in free.values()
        if socket.key.listen == tunnel.listen and socket.phase is not SocketPhase.CLOSING
    ]
    own = [socket for socket in equal if socket.owner.id == tunnel.id]
    orphans = [
        socket
        for socket in equal
        if socket.owner.route == tunnel.route and not _wants(desired.tunnels.get(socket.owner.id), tunnel.listen)
    ]
    found = min(own or orphans, key=lambda socket: socket.key.slot, default=None)
    return found and free.pop(found.key)


def _wants(tunnel: TunnelSpec | None, listen: Listen) -> bool:
    return tunnel is not None and tunnel.off is None and tunnel.listen == listen


def _open_missing(
    missing: list[TunnelSpec], observed: Observed, links: dict[str, list[LinkState]], draft: Draft
) -> None:
    if not missing:
        return
    taken = Addresses(socket.key.listen for socket in observed.sockets.values())
    used = set(observed.sockets)
    for tunnel in missing:
        slot = 0
        while is_choice(tunnel.listen) and SocketKey(tunnel.listen, slot) in used:
            slot += 1
        key = SocketKey(tunnel.listen, slot)
        link = None
        if is_remote(tunnel.listen):
            staying = links.get(tunnel.target)
            if not staying:
                continue
            link = staying[0].id
        if taken.meets(tunnel.listen):
            continue  # a closing socket still holds the address; when it is closed, the loop plans again
        used.add(key)  # also while a retry is not due: another tunnel with a chosen port must not share this backoff
        tries = observed.socket_tries.get(key)
        if tries is None or draft.due(next_socket_try(tries, tunnel.id)):
            draft.start.append(Open(key, tunnel, link, ASKED_FOR))
            taken.add(tunnel.listen)
