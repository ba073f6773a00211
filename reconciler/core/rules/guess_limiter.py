"""How often passwords may be guessed: a limit for each source address, however many connections it opens.

In: each login before its password is compared, and how that went. Out: how long to wait before it is compared, or that
it is not compared at all. It neither sleeps nor reads a clock: `now` is monotonic seconds.

A source (an IPv4 address, an IPv6 /64 network) of a tunnel has BURST wrong passwords in hand and gets one more every
INTERVAL. Once they are used up, its next logins wait for their turn, right ones too: an answer at once would tell right
ones from wrong ones, and there would be no limit. So a client that shares its address with one that guesses waits up to
LONGEST_WAIT seconds, or is refused and has to try again. Other sources, other tunnels, and a source without recent
wrong passwords are not delayed.

What keeps one misconfigured client from delaying its neighbours: a wrong password that the source has sent before is no
new guess, and is free. So is every right password.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address

from reconciler.core.rules.origin import Origin, TcpOrigin

BURST = 10
INTERVAL = 1.0  # seconds
LONGEST_WAIT = 5.0  # seconds: well within the time that a client has for its whole handshake
SOURCES_MAX = 4096  # remembered; the one that was heard of longest ago is forgotten first
REMEMBERED = 8  # wrong passwords of one source


@dataclass(slots=True)
class _Source:
    """`paid_at`: when it has BURST guesses in hand again. `wrong`: hashes of wrong logins, the oldest first."""

    paid_at: float
    wrong: dict[int, None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Guess:
    """A login that may be compared in `wait` seconds. `login` is a hash; `is_free`: it takes no guess."""

    source: tuple[str, object]
    login: int
    wait: float
    is_free: bool


class GuessLimiter:
    """See the module."""

    def __init__(self) -> None:
        self._sources: dict[tuple[str, object], _Source] = {}  # the one heard of longest ago first

    def __len__(self) -> int:
        """How many sources are remembered."""
        return len(self._sources)

    def admit(self, tunnel: str, origin: Origin, login: int, now: float) -> Guess | None:
        """`login` is a hash of user name and password. None: too many wait already, and it must not be compared."""
        key = (tunnel, _group(origin))
        source = self._sources.pop(key, None) or _Source(now)
        self._sources[key] = source
        if len(self._sources) > SOURCES_MAX:
            del self._sources[next(iter(self._sources))]
        if login in source.wrong:
            return Guess(key, login, 0.0, is_free=True)
        paid_at = max(source.paid_at, now) + INTERVAL
        wait = max(0.0, paid_at - now - BURST * INTERVAL)
        if wait > LONGEST_WAIT:
            return None
        source.paid_at = paid_at
        return Guess(key, login, wait, is_free=False)

    def settle(self, guess: Guess, *, right: bool, now: float) -> None:
        """Say how the comparison went."""
        source = self._sources.get(guess.source)
        if source is None:
            return  # forgotten meanwhile
        if not right:
            source.wrong[guess.login] = None
            if len(source.wrong) > REMEMBERED:
                del source.wrong[next(iter(source.wrong))]
            return
        source.wrong.pop(guess.login, None)  # the password was changed to this one
        if not guess.is_free:
            source.paid_at -= INTERVAL
        if not source.wrong and source.paid_at <= now:
            del self._sources[guess.source]

    def forget(self, live: set[str]) -> None:
        """Drop what was known of tunnels that are gone."""
        for key in [key for key in self._sources if key[0] not in live]:
            del self._sources[key]


def _group(origin: Origin) -> object:
    """What counts as one source: an IPv6 host has a whole /64 network of addresses to choose from."""
    match origin:
        case TcpOrigin(address=IPv6Address() as address):
            return int(address) >> 64, origin.scope
        case TcpOrigin(address=address):
            return int(address)
        case _:
            return type(origin).__name__
