"""Which addresses get into each other's way, before anybody binds them. Pure.

In: `Listen` values. Out: whether two of them can be bound together. A chosen port is in nobody's way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from reconciler.core.spec import Listen, LocalTcp, LocalUnix, RemoteTcp, RemoteUnix


def overlaps(one: Listen, other: Listen) -> bool:
    """Whether two fixed addresses cannot be bound at the same time (0.0.0.0 covers 127.0.0.1, `*` everything)."""
    match one, other:
        case LocalTcp(), LocalTcp():
            return one.first == other.first and _hosts_meet(one.host, other.host)
        case RemoteTcp(), RemoteTcp():
            same_server = one.target == other.target and one.port == other.port
            return same_server and _hosts_meet(one.host, other.host)
        case LocalUnix(), LocalUnix():
            return one.path == other.path
        case RemoteUnix(), RemoteUnix():
            return one == other
        case _:
            return False


def is_remote(listen: Listen) -> bool:
    """Whether it is the SSH server that listens."""
    return isinstance(listen, RemoteTcp | RemoteUnix)


def is_choice(listen: Listen) -> bool:
    """Whether the port is chosen at bind time: such listens may be equal and still be different sockets."""
    match listen:
        case LocalTcp():
            return listen.first == 0 or listen.first != listen.last
        case RemoteTcp():
            return listen.port == 0
        case _:
            return False


class Addresses:
    """Fixed addresses in use, indexed by everything that two overlapping ones can have in common.

    A file can ask for ten thousand tunnels on one port of ten thousand addresses: no two of them are compared.
    """

    def __init__(self, listens: Iterable[Listen]) -> None:
        self._users: defaultdict[_Key, dict[Listen, int]] = defaultdict(dict)  # how often each is there, oldest first
        for listen in listens:
            self.add(listen)

    def add(self, listen: Listen) -> None:
        if not is_choice(listen):
            for key in _keys(listen):
                users = self._users[key]
                users[listen] = users.get(listen, 0) + 1

    def remove(self, listen: Listen) -> None:
        if is_choice(listen):
            return
        for key in _keys(listen):
            users = self._users[key]
            users[listen] -= 1
            if not users[listen]:
                del users[listen]
            if not users:
                del self._users[key]

    def meets(self, listen: Listen) -> bool:
        """Whether one of them cannot be bound together with this one."""
        return self.met(listen) is not None

    def met(self, listen: Listen) -> Listen | None:
        """One of them that cannot be bound together with this one."""
        if is_choice(listen):
            return None
        found = (self._users[key] for key in _keys_of_others(listen) if key in self._users)
        return next((next(iter(users)) for users in found), None)


_Key = tuple[object, ...]


def _keys(listen: Listen) -> Iterator[_Key]:
    """What others may look it up by: its names, its IP versions, and those of which it takes all addresses."""
    place = _place(listen)
    if not isinstance(listen, LocalTcp | RemoteTcp):
        yield (place,)
        return
    yield from ((place, "named", name) for name in _named(listen.host))
    for family in _families(listen.host):
        yield (place, "family", family)
        if _is_any(listen.host):
            yield (place, "any", family)


def _keys_of_others(listen: Listen) -> Iterator[_Key]:
    """The keys of those that it overlaps with."""
    place = _place(listen)
    if not isinstance(listen, LocalTcp | RemoteTcp):
        yield (place,)
        return
    yield from ((place, "named", name) for name in _named(listen.host))
    for family in _families(listen.host):
        yield (place, "family" if _is_any(listen.host) else "any", family)


def _place(listen: Listen) -> object:
    """What two overlapping addresses have in common whatever their hosts."""
    match listen:
        case RemoteTcp():
            return listen.target, listen.port
        case RemoteUnix():
            return listen.target, listen.path
        case LocalTcp():
            return listen.first
        case LocalUnix():
            return listen.path


def _hosts_meet(one: str, other: str) -> bool:
    if _named(one) & _named(other):
        return True
    return bool(_families(one) & _families(other)) and (_is_any(one) or _is_any(other))


def _named(host: str) -> frozenset[str]:
    """The addresses that a listen host is known to mean without asking anybody."""
    return frozenset({"127.0.0.1", "::1", host}) if host == "localhost" else frozenset({host})


def _is_any(host: str) -> bool:
    return host in ("0.0.0.0", "::", "*", "")  # noqa: S104 - the names of "all interfaces"; nothing is bound here


def _families(host: str) -> frozenset[int]:
    """The IP versions a listen host can mean: a literal one, a name or `*` both."""
    if ":" in host:
        return frozenset({6})
    if host.replace(".", "").isdigit():
        return frozenset({4})
    return frozenset({4, 6})
