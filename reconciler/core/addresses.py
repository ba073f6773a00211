"""Which addresses get into each other's way, before anybody binds them. Pure.

In: `Listen` values. Out: whether two of them can be bound together. A chosen port is in nobody's way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

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
    """Fixed addresses in use, indexed so that a thousand more do not compare a million pairs."""

    def __init__(self, listens: Iterable[Listen]) -> None:
        self._by_place: defaultdict[object, list[Listen]] = defaultdict(list)
        for listen in listens:
            self.add(listen)

    def add(self, listen: Listen) -> None:
        if not is_choice(listen):
            self._by_place[_place(listen)].append(listen)

    def remove(self, listen: Listen) -> None:
        if not is_choice(listen):
            self._by_place[_place(listen)].remove(listen)

    def meets(self, listen: Listen) -> bool:
        """Whether one of them cannot be bound together with this one."""
        if is_choice(listen):
            return False
        return any(overlaps(listen, other) for other in self._by_place.get(_place(listen), ()))


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
