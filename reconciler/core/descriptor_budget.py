"""How many file descriptors listeners, SSH connections and clients may use. Pure arithmetic.

A process may have `limit` descriptors open. Some of them are a reserve that is never given out here: for files, the
endpoints, the control socket, name lookups and threads. The rest is `usable`, and goes to three kinds:

    listeners         at most a half
    SSH connections   at most a half
    clients           what the other two leave, a quarter at least; an eighth is kept free for each of the two to grow

Clients are counted by the listener that they came in by (its "owner" here), and by group: that tunnel's target, or
AWAY for those that came while there was no connection to it, until there is one. Two rules keep one owner's clients,
those of all tunnels of a target, and those that wait for targets that are away, from using up what the others need:

    share     Each listener has an equal part of a quarter of `usable`. A client within the share is never refused
              because of other owners' clients.
    borrowing Beyond the share, an owner gets another client only while it has fewer than three times as many as are
              free, and its group fewer than seven times as many. So one owner alone gets three quarters of what there
              is, a second one three quarters of the rest; and an eighth is left for owners of other groups.

Invariants (tests/unit/test_budget.py): what is taken is never more than `usable`; and what is free always covers the
shares that are not used, as long as the number of listeners stays the same.
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
    """The budget has no descriptors left for this purpose."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(errno.EMFILE, failure.message)
        self.failure = failure


class Place:
    """Descriptors taken from a budget, until `give_back`, which may be called more than once."""

    __slots__ = ("_back",)

    def __init__(self, back: Callable[[], None]) -> None:
        self._back: Callable[[], None] | None = back

    def give_back(self) -> None:
        back, self._back = self._back, None
        if back is not None:
            back()


class ClientPlace(Place):
    """The place of a client in its group."""

    __slots__ = ("_groups", "group")

    def __init__(self, back: Callable[[], None], groups: dict[str, int], group: str) -> None:
        super().__init__(back)
        self._groups = groups
        self.group = ""
        self.move_to(group)

    def move_to(self, group: str) -> None:
        """Count it in this group from now on."""
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


class Budget:
    """See the module. `open_before`: how many descriptors are open already, for other purposes."""

    def __init__(self, limit: int, open_before: int = 0) -> None:
        self.limit = limit
        left = max(0, limit - open_before)
        self.reserve = min(left, max(RESERVE_MIN, min(left // 4, RESERVE_MAX)))
        self.usable = left - self.reserve
        self.listeners_max = self.usable // 2
        self.links_max = self.usable // 2
        self.listeners = self.links = self.clients = 0
        self._headroom = self.usable // 8  # for listeners, and the same for connections
        self._owners: set[Hashable] = set()
        self._clients: dict[Hashable, int] = {}
        self._names: dict[Hashable, str] = {}  # of the owners that have clients
        self._groups: dict[str, int] = {}  # clients, by group
        self._share = 0
        self._within_shares = 0  # clients of registered owners that count towards their shares

    @property
    def endpoint_connections(self) -> int:
        """How many clients each of the two endpoints (HTTP, control socket) may have; part of the reserve."""
        return max(1, min(ENDPOINT_CONNECTIONS_MAX, self.reserve // 4))

    @property
    def share(self) -> int:
        """How many clients each owner is certain to have room for."""
        return self._share

    @property
    def free(self) -> int:
        """What is neither taken nor kept for a share. Negative for a while after the number of owners changed."""
        unused_shares = self._share * len(self._owners) - self._within_shares
        return self.usable - self.listeners - self.links - self.clients - unused_shares

    # --- listeners and connections -----------------------------------------------------------------------------

    def take_listener(self, count: int) -> Place | None:
        """Take `count` descriptors for a listener; None if there is no room."""
        if self.listeners + count > self.listeners_max or self.free < count:
            return None
        self.listeners += count

        def back() -> None:
            self.listeners -= count

        return Place(back)

    def take_link(self, count: int) -> Place | None:
        """Take `count` descriptors for an SSH connection, or for a dial; None if there is no room."""
        if count and (self.links + count > self.links_max or self.free < count):
            return None
        self.links += count

        def back() -> None:
            self.links -= count

        return Place(back)

    # --- clients -----------------------------------------------------------------------------------------------

    def add_owner(self, owner: Hashable) -> None:
        """A listener is open: its clients have a share from now on."""
        self._owners.add(owner)
        self._divide()

    def remove_owner(self, owner: Hashable) -> None:
        """The listener is closed. Its last clients still count, and have no share."""
        self._owners.discard(owner)
        self._divide()

    def _divide(self) -> None:
        self._share = self.usable // 4 // len(self._owners) if self._owners else 0
        counted = (count for owner, count in self._clients.items() if owner in self._owners)
        self._within_shares = sum(min(count, self._share) for count in counted)

    def take_client(self, owner: Hashable, tunnel: str, group: str) -> ClientPlace | None:
        """Take a descriptor for a client of a tunnel, which is the owner's now; None if there is no room."""
        count = self._clients.get(owner, 0)
        is_within = owner in self._owners and count < self._share
        if self.listeners + self.links + self.clients >= self.usable:
            return None
        free = self.free - self._kept_for_growth()
        if not is_within and not (count < BORROWED * free and self._groups.get(group, 0) < BORROWED_BY_GROUP * free):
            return None
        self.clients += 1
        self._clients[owner] = count + 1
        self._names[owner] = tunnel
        self._within_shares += is_within
        return ClientPlace(lambda: self._left(owner), self._groups, group)

    def _kept_for_growth(self) -> int:
        return max(0, self._headroom - self.listeners) + max(0, self._headroom - self.links)

    def _left(self, owner: Hashable) -> None:
        self.clients -= 1
        count = self._clients[owner] = self._clients[owner] - 1
        if owner in self._owners and count < self._share:
            self._within_shares -= 1
        if not count:
            del self._clients[owner], self._names[owner]

    def clients_of(self, owner: Hashable) -> int:
        return self._clients.get(owner, 0)

    # --- sentences ---------------------------------------------------------------------------------------------

    def no_listener(self) -> Failure:
        """Why there is no room for another listener."""
        if self.listeners >= self.listeners_max - 1:
            used = f"listeners may use {self.listeners_max} of {self.limit} descriptors"
            return _full(f"no room for another listener: {used}")
        return _full(f"no room for another listener: {self._largest()}")

    def no_link(self) -> Failure:
        """Why there is no room for another SSH connection."""
        if self.links >= self.links_max - 1:
            used = f"SSH connections may use {self.links_max} of {self.limit} descriptors"
            return _full(f"no room for another SSH connection: {used}")
        return _full(f"no room for another SSH connection: {self._largest()}")

    def no_client(self) -> Failure:
        """Why there is no room for another client."""
        remedy = f"{REMEDY} or set `maxConnections`" if self._clients else REMEDY
        return _full(f"no room for another client: {self._largest()}", remedy)

    def _largest(self) -> str:
        """What uses the most descriptors."""
        group = max(self._groups, key=self._groups.__getitem__, default=None)
        if group is None or self._groups[group] < self.listeners + self.links:
            return f"listeners and SSH connections use {self.listeners + self.links} of {self.limit} descriptors"
        owner = max(self._clients, key=self._clients.__getitem__)
        count, whose = self._clients[owner], self._names[owner]
        if 2 * count < self._groups[group]:
            count, whose = self._groups[group], f"target {group}" if group != AWAY else "targets that are not connected"
        return f"{count} of {self.limit} descriptors are in use by clients of {whose}"


def _full(what: str, fix: str = REMEDY) -> Failure:
    return Failure(Reason.RESOURCES, what, fix)
