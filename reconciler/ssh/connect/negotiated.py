"""What an SSH connection negotiated. asyncssh reports the cipher; the rest is derived from the offers of both sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncssh

from reconciler.core.observed import Failure, Reason
from reconciler.core.spec import Algorithms
from reconciler.ssh.connect import algorithms
from reconciler.ssh.errors.patterns import printable
from reconciler.ssh.internals.kex_messages import offers
from reconciler.ssh.internals.keys.algorithm_names import supported

# The markers of RFC 8308 and of OpenSSH's strict kex are in the list of algorithms, and are not algorithms.
_MARKERS = ("ext-info-", "kex-strict-")
# The order of the lists; from the ciphers on there is one for each direction.
_FIELDS = ("kex", "hostKey", "cipher", "cipher", "mac", "mac", "compression", "compression")
_WITHOUT_MAC = ("aes128-gcm", "aes256-gcm", "chacha20")

_KINDS = {
    "kex": "key exchange",
    "hostKey": "host key type",
    "cipher": "cipher",
    "mac": "MAC",
    "compression": "compression",
}


@dataclass(frozen=True, slots=True)
class Missing:
    """A kind of algorithm (a field of `algorithms`, or `compression`) without a common name, and the server's offer."""

    field: str
    theirs: tuple[str, ...]

    @property
    def best(self) -> str:
        """The strongest that the server has and this program supports, "" if there is none."""
        return next((name for name in supported(self.field) if name in self.theirs and name != "none"), "")


def cipher(connection: asyncssh.SSHClientConnection) -> str:
    """The cipher of the sending direction, "" if it is unknown."""
    return str(connection.get_extra_info("send_cipher") or "")


def kex(connection: asyncssh.SSHClientConnection) -> str:
    """The key exchange method, "" if it is unknown."""
    return _first_common(connection, _FIELDS.index("kex"))


def host_key(connection: asyncssh.SSHClientConnection) -> str:
    """The type of host key that the server presented, "" if it is unknown."""
    return _first_common(connection, _FIELDS.index("hostKey"))


def _first_common(connection: asyncssh.SSHClientConnection, field: int) -> str:
    """The first name that the client offers and the server offers too (RFC 4253 section 7.1), "" if there is none."""
    offered = offers(connection)
    if offered is None:
        return ""
    ours, theirs = (lists[field] for lists in offered)
    return next(iter(_common(ours, theirs)), "")


def _common(ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    return [name for name in ours if name in theirs and not name.startswith(_MARKERS)]


def nothing_common(connection: asyncssh.SSHClientConnection) -> list[Missing]:
    """Every kind of algorithm with no common name, empty if all match.

    The failure needs this: a server that sees the mismatch before asyncssh does may close the connection silently.
    """
    offered = offers(connection)
    if offered is None:
        return []
    found: dict[str, Missing] = {}
    cipher = ""
    for field, ours, theirs in zip(_FIELDS, *offered, strict=False):
        common = _common(ours, theirs)
        missing = Missing(field, tuple(name for name in theirs if not name.startswith(_MARKERS)))
        if field == "cipher":
            cipher = common[0] if common else missing.best
        if not common and not (field == "mac" and cipher.startswith(_WITHOUT_MAC)):
            found.setdefault(field, missing)
    return list(found.values())


def terrapin(connection: asyncssh.SSHClientConnection) -> tuple[str, str] | None:
    """The field of `algorithms` and the name of a negotiated algorithm that needs strict key exchange and lacks it.

    None if there is no such algorithm.

    With ChaCha20, or CBC and an encrypt-then-MAC, an attacker in between can drop the first packets after the key
    exchange unnoticed, unless both sides do strict key exchange (CVE-2023-48795).
    """
    offered = offers(connection)
    if offered is None or "kex-strict-s-v00@openssh.com" in offered[1][0]:
        return None  # this side always offers it
    for direction in ("send", "recv"):
        cipher, mac = (str(connection.get_extra_info(f"{direction}_{kind}")) for kind in ("cipher", "mac"))
        if cipher.startswith("chacha20-poly1305"):
            return "cipher", cipher
        if cipher.endswith("-cbc") and "-etm@" in mac:
            return "mac", mac
    return None


def no_common(missing: Sequence[Missing], where: str, chosen: Algorithms) -> Failure:
    """The failure for offers that share nothing in these kinds, with the YAML that accepts what the server has."""
    kinds = " and no ".join(_KINDS[one.field] for one in missing)
    theirs = "; ".join(f"{one.field}: {printable(', '.join(one.theirs))}" for one in missing)
    what = f"{where} and this program share no {kinds}; the server offers {theirs}"
    if hopeless := [one.field for one in missing if not one.best]:
        fix = f"update the server: this program supports none of these for {' and '.join(hopeless)}"
        return Failure(Reason.PROTOCOL, what, fix)
    changed = {
        one.field: (*algorithms.chosen(chosen, one.field), one.best) for one in missing if one.field != "compression"
    }
    fields = [algorithms.yaml(chosen, **changed)] * bool(changed) + ["compress: true"] * (len(changed) < len(missing))
    return Failure(Reason.PROTOCOL, what, f"update the server, or accept what it has with `{'` and `'.join(fields)}`")
