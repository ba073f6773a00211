"""Listen addresses: their kinds, and the conflicts between them, found before binding.

Input: `Listen` values. Output: whether two of them can be bound together. A port that is chosen at bind time conflicts
with no other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from reconciler.core.spec import Listen, LocalTcp, LocalUnix, RemoteTcp, RemoteUnix


def overlaps(one: Listen, other: Listen) -> bool:
    """Return True if two fixed addresses cannot be bound together (0.0.0.0 covers 127.0.0.1, `*` covers all)."""
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
    """Return True if the SSH server listens."""
    return isinstance(listen, RemoteTcp | RemoteUnix)


def is_choice(listen: Listen) -> bool:
    """Return True if the port is chosen at bind time. Equal values can then be different sockets."""
    match listen:
        case LocalTcp():
            return listen.first == 0 or listen.first != listen.last
        case RemoteTcp():
            return listen.port == 0
        case _:
            return False


def is_loopback(host: str) -> bool:
    """Return True if only this machine reaches a listener on that host."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Addresses:
    """The fixed addresses in use, indexed by what two overlapping addresses can have in common.

    The index avoids comparing each pair: a file can have ten thousand tunnels on one port of ten thousand addresses.
    """

    def __init__(self, listens: Iterable[Listen]) -> None:
        # By index key: how often each address is in use, the oldest address first.
        self._users: defaultdict[_Key, dict[Listen, int]] = defaultdict(dict)
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
        """Return True if an address in use overlaps with this one."""
        return self.met(listen) is not None

    def met(self, listen: Listen) -> Listen | None:
        """Return an address in use that overlaps with this one, None if there is none."""
        if is_choice(listen):
            return None
        found = (self._users[key] for key in _keys_of_others(listen) if key in self._users)
        return next((next(iter(users)) for users in found), None)


_Key = tuple[object, ...]


def _keys(listen: Listen) -> Iterator[_Key]:
    """Yield the index keys of an address: one for each name and IP version; "any" if it covers all of that version."""
    base = _base_key(listen)
    if not isinstance(listen, LocalTcp | RemoteTcp):
        yield (base,)
        return
    yield from ((base, "named", name) for name in _named(listen.host))
    for family in _families(listen.host):
        yield (base, "family", family)
        if is_any(listen.host):
            yield (base, "any", family)


def _keys_of_others(listen: Listen) -> Iterator[_Key]:
    """Yield the index keys of all addresses that overlap with this one."""
    base = _base_key(listen)
    if not isinstance(listen, LocalTcp | RemoteTcp):
        yield (base,)
        return
    yield from ((base, "named", name) for name in _named(listen.host))
    for family in _families(listen.host):
        yield (base, "family" if is_any(listen.host) else "any", family)


def _base_key(listen: Listen) -> object:
    """Return the part of the key that two overlapping addresses share whatever their hosts are."""
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
    return bool(_families(one) & _families(other)) and (is_any(one) or is_any(other))


def _named(host: str) -> frozenset[str]:
    """Return the addresses that a listen host is known to stand for without a name lookup."""
    return frozenset({"127.0.0.1", "::1", host}) if host == "localhost" else frozenset({host})


def is_any(host: str) -> bool:
    """Return True if a listener on that host takes clients on all interfaces."""
    return host in ("0.0.0.0", "::", "*", "")  # noqa: S104 - the names of "all interfaces"; nothing is bound here


def _families(host: str) -> frozenset[int]:
    """Return the IP versions of a listen host: one for an address, both for a name or `*`."""
    if ":" in host:
        return frozenset({6})
    if host.replace(".", "").isdigit():
        return frozenset({4})
    return frozenset({4, 6})
