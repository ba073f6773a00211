"""How many file descriptors listeners, SSH connections and clients may use. Pure arithmetic.

A process may have `limit` descriptors open. A reserve of them is never handed out: it serves files, the endpoints,
the control socket, name lookups and threads. The rest is `usable`, and is divided among three kinds:

    listeners         at most a half
    SSH connections   at most a half
    clients           the remainder, at least a quarter; an eighth is kept free for each of the other two to grow

Clients are counted by the listener that accepted them (the "owner"), and by group. The group is the tunnel's target, or
AWAY for a client that waits because the target has no connection. Two rules keep the clients of one owner, of one
target, or of targets without a connection from using up the descriptors of the others:

    share     Each listener has an equal part of a quarter of `usable`. A client within the share is never refused
              because of other owners' clients.
    borrowing Beyond the share, an owner gets another client only while it has fewer than three times the number of
              free descriptors, and its group fewer than seven times. One owner alone thus gets three quarters of the
              total, a second one three quarters of the rest, and an eighth is left for owners of other groups.

Invariants (tests/unit/test_budget.py): the number taken never exceeds `usable`, and the free descriptors always cover
the unused shares as long as the number of listeners stays the same.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable

from reconciler.core.observed import Failure, Reason

RESERVE_MAX = 512
RESERVE_MIN = 32
BORROWED, BORROWED_BY_GROUP = 3, 7  # times the free descriptors
ENDPOINT_CONNECTIONS_MAX = 128
AWAY = "*"  # the group of clients that wait for a connection; no target has this name
REMEDY = "raise the limit of open files (ulimit -n, LimitNOFILE=)"


class NoRoomError(OSError):
    """Raised when the budget has no descriptors left for a purpose."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(errno.EMFILE, failure.message)
        self.failure = failure


class Place:
    """Descriptors taken from a budget until `give_back`. Calling `give_back` again has no effect."""

    __slots__ = ("_back",)

    def __init__(self, back: Callable[[], None]) -> None:
        self._back: Callable[[], None] | None = back

    def give_back(self) -> None:
        back, self._back = self._back, None
        if back is not None:
            back()


class ClientPlace(Place):
    """The descriptor of a client, counted in a group."""

    __slots__ = ("_groups", "group")

    def __init__(self, back: Callable[[], None], groups: dict[str, int], group: str) -> None:
        super().__init__(back)
        self._groups = groups
        self.group = ""
        self.move_to(group)

    def move_to(self, group: str) -> None:
        """Count the client in `group` from now on."""
        if self._back is None or group == self.group:
            return
        self._leave()
        self.group = group
        self._groups[group] = self._groups.get(group, 0) + 1

    def give_back(self) -> None:
        if self._back is not None:
            self._leave()
        super().give_back()

    def _leave(self) -> None:
        if self.group:
            self._groups[self.group] -= 1
            if not self._groups[self.group]:
                del self._groups[self.group]


class _Owner:
    """A listener, as long as it is open or has clients.

    clients   how many it has
    tunnel    its tunnel when the last client came
    is_open   it has a share
    """

    __slots__ = ("clients", "is_open", "tunnel")

    def __init__(self) -> None:
        self.clients = 0
        self.is_open = False
        self.tunnel = ""


class Budget:
    """Hands out the descriptors of the process and counts them. `open_before` is the number already open."""

    def __init__(self, limit: int, open_before: int = 0) -> None:
        self.limit = limit
        left = max(0, limit - open_before)
        self.reserve = min(left, max(RESERVE_MIN, min(left // 4, RESERVE_MAX)))
        self.usable = left - self.reserve
        self.listeners_max = self.usable // 2
        self.links_max = self.usable // 2
        self.listeners = self.links = self.clients = 0
        self._headroom = self.usable // 8  # for listeners, and the same for connections
        self._owners: dict[Hashable, _Owner] = {}
        self._groups: dict[str, int] = {}  # clients, by group
        self._open = 0  # owners that have a share
        self._share = 0
        self._within_shares = 0  # clients of registered owners that count towards their shares

    @property
    def endpoint_connections(self) -> int:
        """The client limit of each endpoint (HTTP, control socket), taken from the reserve."""
        return max(1, min(ENDPOINT_CONNECTIONS_MAX, self.reserve // 4))

    @property
    def share(self) -> int:
        """The number of clients that each owner is guaranteed."""
        return self._share

    @property
    def free(self) -> int:
        """Descriptors neither taken nor kept for a share. May be negative after the number of owners changed."""
        unused_shares = self._share * self._open - self._within_shares
        return self.usable - self.listeners - self.links - self.clients - unused_shares

    # --- listeners and connections -----------------------------------------------------------------------------

    def take_listener(self, count: int) -> Place | None:
        """Take `count` descriptors for a listener. Return None if too few are left."""
        if self.listeners + count > self.listeners_max or self.free < count:
            return None
        self.listeners += count

        def back() -> None:
            self.listeners -= count

        return Place(back)

    def take_link(self, count: int) -> Place | None:
        """Take `count` descriptors for an SSH connection or a dial. Return None if too few are left."""
        if count and (self.links + count > self.links_max or self.free < count):
            return None
        self.links += count

        def back() -> None:
            self.links -= count

        return Place(back)

    # --- clients -----------------------------------------------------------------------------------------------

    def add_owner(self, owner: Hashable) -> None:
        """Give the clients of a new listener a share."""
        self._owner(owner).is_open = True
        self._divide()

    def remove_owner(self, owner: Hashable) -> None:
        """Take away the share of a closed listener. Its remaining clients still count."""
        self._owner(owner).is_open = False
        self._divide()

    def _owner(self, owner: Hashable) -> _Owner:
        record = self._owners.get(owner)
        if record is None:
            record = self._owners[owner] = _Owner()
        return record

    def _divide(self) -> None:
        self._owners = {owner: record for owner, record in self._owners.items() if record.is_open or record.clients}
        counted = [record.clients for record in self._owners.values() if record.is_open]
        self._open = len(counted)
        self._share = self.usable // 4 // self._open if counted else 0
        self._within_shares = sum(min(count, self._share) for count in counted)

    def take_client(self, owner: Hashable, tunnel: str, group: str) -> ClientPlace | None:
        """Take a descriptor for a client of `tunnel`, the present tunnel of `owner`. Return None if none is left."""
        record = self._owner(owner)
        count = record.clients
        is_within = record.is_open and count < self._share
        if self.listeners + self.links + self.clients >= self.usable:
            return None
        free = self.free - self._kept_for_growth()
        if not is_within and not (count < BORROWED * free and self._groups.get(group, 0) < BORROWED_BY_GROUP * free):
            return None
        self.clients += 1
        record.clients = count + 1
        record.tunnel = tunnel
        self._within_shares += is_within
        return ClientPlace(lambda: self._left(record), self._groups, group)

    def _kept_for_growth(self) -> int:
        return max(0, self._headroom - self.listeners) + max(0, self._headroom - self.links)

    def _left(self, record: _Owner) -> None:
        self.clients -= 1
        record.clients -= 1
        if record.is_open and record.clients < self._share:
            self._within_shares -= 1

    def clients_of(self, owner: Hashable) -> int:
        return self._owners[owner].clients if owner in self._owners else 0

    # --- messages ----------------------------------------------------------------------------------------------

    def no_listener(self) -> Failure:
        """Return the failure of a listener that gets no descriptor."""
        if self.listeners >= self.listeners_max - 1:
            used = f"listeners may use {self.listeners_max} of {self.limit} descriptors"
            return _no_descriptor("listener", used)
        return _no_descriptor("listener", self._largest())

    def no_link(self) -> Failure:
        """Return the failure of an SSH connection that gets no descriptors."""
        if self.links >= self.links_max - 1:
            used = f"SSH connections may use {self.links_max} of {self.limit} descriptors"
            return _no_descriptor("SSH connection", used)
        return _no_descriptor("SSH connection", self._largest())

    def no_client(self) -> Failure:
        """Return the failure of a client that gets no descriptor."""
        remedy = f"{REMEDY} or set `maxConnections`" if self.clients else REMEDY
        return _no_descriptor("client", self._largest(), remedy)

    def _largest(self) -> str:
        """Return a sentence about the largest user of descriptors."""
        group = max(self._groups, key=self._groups.__getitem__, default=None)
        if group is None or self._groups[group] < self.listeners + self.links:
            return f"listeners and SSH connections use {self.listeners + self.links} of {self.limit} descriptors"
        owner = max(self._owners.values(), key=lambda record: record.clients)
        count, name = owner.clients, owner.tunnel
        if 2 * count < self._groups[group]:
            count, name = self._groups[group], f"target {group}" if group != AWAY else "targets that are not connected"
        return f"{count} of {self.limit} descriptors are in use by clients of {name}"


def _no_descriptor(purpose: str, usage: str, fix: str = REMEDY) -> Failure:
    return Failure(Reason.RESOURCES, f"no descriptor left for another {purpose} ({usage})", fix)
