"""A limit on password guesses at one tunnel for each source address, independent of its number of connections.

Input: each login before its password is compared, and the result of the comparison. Output: how long to wait before the
comparison, or a refusal. The limiter neither sleeps nor reads a clock: `now` is monotonic seconds.

A source (an IPv4 address or an IPv6 /64 network) may send BURST wrong passwords, and one more every
INTERVAL. After that all its logins wait, also those with the correct password: an immediate answer would distinguish
correct passwords from wrong ones and bypass the limit. A client that shares its address with a guesser thus waits up to
LONGEST_WAIT seconds, or is refused and must try again. Other sources, and a source without recent wrong passwords, are
not delayed.

A correct password costs no guess. Nor does a wrong password that the source has sent before: one misconfigured client
must not delay others at its address.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address

from reconciler.core.rules.origin import Origin, TcpOrigin

BURST = 10
INTERVAL = 1.0  # seconds
LONGEST_WAIT = 5.0  # seconds; well below the limit for the whole handshake
SOURCES_MAX = 4096  # the least recently used source is dropped first
REMEMBERED = 8  # wrong passwords kept for each source


@dataclass(slots=True)
class _Source:
    """The state of one source. `paid_at` is when all BURST guesses are available again; `wrong` are hashes of wrong
    logins, the oldest first.
    """

    paid_at: float
    wrong: dict[int, None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Guess:
    """A login that may be compared after `wait` seconds. `login` is a hash. `is_free` is True if it costs no guess."""

    source: object
    login: int
    wait: float
    is_free: bool


class GuessLimiter:
    """Counts the wrong passwords of each source and delays its logins."""

    def __init__(self) -> None:
        self._sources: dict[object, _Source] = {}  # the least recently used first

    def __len__(self) -> int:
        """Return the number of known sources."""
        return len(self._sources)

    def admit(self, origin: Origin, login: int, now: float) -> Guess | None:
        """Admit a login to comparison, or return None if too many are waiting and it must be refused.

        `login` is a hash of user name and password.
        """
        key = _group(origin)
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
        """Record the result of the comparison."""
        source = self._sources.get(guess.source)
        if source is None:
            return  # dropped meanwhile
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


def _group(origin: Origin) -> object:
    """Return the key of a source. An IPv6 host can use any address of its /64 network, so that counts as one."""
    match origin:
        case TcpOrigin(address=IPv6Address() as address):
            return int(address) >> 64, origin.scope
        case TcpOrigin(address=address):
            return int(address)
        case _:
            return type(origin).__name__
