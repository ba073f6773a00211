"""Offers the keys of a hop to one server, one at a time, and explains why none of them logged in.

An RSA key makes several kinds of signature (RFC 8332). SHA-2 is used if the server announces it, or does not say what
it takes. SHA-1 (`ssh-rsa`) is used only if the file names it, in `algorithms.hostKey`; then both may be tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from reconciler.core.observed import Failure, Reason
from reconciler.core.text.forms import and_more
from reconciler.ssh.connect.keys import user_certificates
from reconciler.ssh.connect.keys.offer import Offer
from reconciler.ssh.errors.patterns import printable

SHA1 = "ssh-rsa"
_SHOWN = 2  # labels in one message
_REFUSED_TO_SIGN = "Unable to sign"  # asyncssh's text for an agent's SSH_AGENT_FAILURE


@dataclass(frozen=True, slots=True)
class _Unsigned:
    offer: Offer
    why: str


class KeyAttempts:
    """The keys that are still to be offered, and the outcome of the others.

    offered   the keys that were sent, in order
    allowed   the signatures that this program may make
    """

    def __init__(self, offers: Sequence[Offer], allowed: Sequence[str]) -> None:
        self.offered: list[Offer] = []
        self._left = list(offers)
        self._allowed = allowed
        self._accepted: list[Offer] = []  # as one of several that the server requires
        self._unsuitable: list[Offer] = []  # the server takes no signature that they may make
        self._unsigned: list[_Unsigned] = []
        self._announced: frozenset[str] | None = None
        self._pending: Iterator[str] = iter(())

    def next(self, announced: frozenset[str] | None) -> Offer | None:
        """Return the next key, ready to sign; None if none is left. `announced`: what the server says that it takes."""
        self._announced = announced
        if self.offered and self.offered[-1] not in self._accepted and (name := next(self._pending, "")):
            return self._ready(self.offered[-1], name)
        while self._left:
            offer = self._left.pop(0)
            names = _signatures(offer, self._allowed, announced)
            if names:
                self.offered.append(offer)
                self._pending = iter(names[1:])
                return self._ready(offer, names[0])
            self._unsuitable.append(offer)
        return None

    def _ready(self, offer: Offer, name: str) -> Offer:
        offer.signer.choose(name, lambda why: self._unsigned.append(_Unsigned(offer, why)))
        return offer

    def accepted(self) -> None:
        """The server accepts the key that was offered last, and requires more."""
        self._accepted.append(self.offered[-1])

    def forget(self) -> None:
        """Drop the keys."""
        for kept in (self.offered, self._left, self._accepted, self._unsuitable, self._unsigned):
            kept.clear()

    # --- why the login failed ----------------------------------------------------------------------------------

    def failure(self, where: str, user: str, sha1: Callable[[], str]) -> Failure | None:
        """The failure, if a key explains it. `sha1` returns the YAML that allows SHA-1."""
        if self._unsigned:
            return _not_signed(self._unsigned[0], where, user)
        if self._accepted:
            return self._second_refused(where, user)
        if self._unsuitable:
            return self._no_signature(where, user, sha1)
        for offer in self.offered:
            if (found := user_certificates.refusal(offer, where, user)) is not None:
                return found
        if any(SHA1 in offer.signer.names for offer in self.offered):
            return self._rsa_refused(where, user, sha1)
        return None

    def _second_refused(self, where: str, user: str) -> Failure | None:
        """The failure if the server accepts a key, requires another one too, and refused those that it was offered."""
        last = self.offered.index(self._accepted[-1])
        if not (refused := self.offered[last + 1 :]):
            return None
        what = f"{where} accepts {labels(self._accepted)} from {user}, requires another key too"
        return Failure(Reason.AUTH, f"{what}, and refused {labels(refused)}", "add that key to `privateKey`")

    def _no_signature(self, where: str, user: str, sha1: Callable[[], str]) -> Failure:
        first = self._unsuitable[0]
        refused = f"{where} refused the login of {user} with {labels(self.offered)}, and" if self.offered else where
        if SHA1 in first.signer.names and SHA1 in (self._announced or ()):
            what = f"{refused} accepts RSA keys with SHA-1 signatures only, so {labels(self._unsuitable)} was not tried"
            return Failure(
                Reason.AUTH, what, f"use an Ed25519 or ECDSA key for {user}, or accept SHA-1 with `{sha1()}`"
            )
        names = and_more([printable(name) for name in sorted(self._announced or ())], 8)
        takes = f"; it takes {names}" if names else ""
        what = f"{refused} takes no signature that {labels(self._unsuitable)} can make here{takes}"
        fix = f"use a key of another type for {user}"
        own = next((name for name in first.signer.names if name not in self._allowed), "")
        return Failure(Reason.AUTH, what, f"{fix}, or name `{own}` in `algorithms.hostKey`" if own else fix)

    def _rsa_refused(self, where: str, user: str, sha1: Callable[[], str]) -> Failure:
        what = f"{where} refused the login of {user} with {labels(self.offered)}"
        fix = "check `user` and the key here, and authorized_keys on the server"
        if SHA1 in self._allowed:
            return Failure(Reason.AUTH, what, fix)
        if self._announced is None:
            what = f"{what}, and does not announce that it takes RSA keys with SHA-2 signatures"
        return Failure(Reason.AUTH, what, f"{fix}; if it takes RSA keys with SHA-1 only, accept that with `{sha1()}`")


def labels(offers: Sequence[Offer]) -> str:
    """The names of the keys, each once."""
    return and_more(list(dict.fromkeys(offer.label for offer in offers)), _SHOWN)


def _signatures(offer: Offer, allowed: Sequence[str], announced: frozenset[str] | None) -> list[str]:
    """The signatures to try with the key, in order: at most one of each hash."""
    names = [name for name in offer.signer.names if name in allowed]
    if SHA1 not in offer.signer.names:
        return names[:1]
    # SHA-512 first, as in ssh: asyncssh prefers SHA-256, which hardened servers refuse without announcing it.
    sha2 = sorted((name for name in names if name != SHA1), reverse=True)
    sha1 = [name for name in names if name == SHA1]
    if announced is None:  # a server from before SHA-2, or one that does not say: the file tells
        return [*sha1, *sha2[:1]]
    return [*[name for name in sha2 if name in announced][:1], *[name for name in sha1 if name in announced]]


def _not_signed(unsigned: _Unsigned, where: str, user: str) -> Failure:
    offer, why = unsigned.offer, unsigned.why
    what = f"{where} accepts {offer.label} from {user}, but "
    if not offer.agent:
        return Failure(
            Reason.AUTH, f"{what}this key cannot sign ({printable(why)})", "name another key: this one is damaged"
        )
    if not why.startswith(_REFUSED_TO_SIGN):
        what = f"{what}the agent ended before it signed ({printable(why)})"
        return Failure(Reason.AUTH, what, "check whether the agent runs")
    fix = (
        "unlock it (ssh-add -X), confirm the use if it asks (ssh-add -c) or touch the security key, or use another key"
    )
    return Failure(Reason.AUTH, f"{what}the agent refuses to sign with it", fix)
