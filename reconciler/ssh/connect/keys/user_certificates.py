"""User certificates: reads them, and explains a refused login or forward by their contents.

If a certificate cannot be used, its plain key is offered all the same, as in ssh.
"""

from __future__ import annotations

import binascii
import time
from datetime import UTC, datetime

import asyncssh

from reconciler.core.observed import Failure, Reason
from reconciler.core.text import key_text
from reconciler.core.text.forms import and_more
from reconciler.ssh.connect.keys.offer import Offer
from reconciler.ssh.errors.patterns import printable
from reconciler.ssh.internals.keys import certificates, public_keys
from reconciler.ssh.internals.keys.certificates import Certificate

_FORWARDING = "permit-port-forwarding"
_SOURCE = "source-address"
_NAMES_SHOWN = 3


class UnusableError(Exception):
    """A key or certificate that cannot be used now; another login of the hop may succeed."""

    def __init__(self, reason: Reason, what: str, fix: str, ends_at: float | None = None) -> None:
        super().__init__(what)
        self.failure = Failure(reason, what, fix, ends_at)


def _invalid(what: str, fix: str) -> UnusableError:
    return UnusableError(Reason.SECRET_UNREADABLE, what, fix)


def read(content: bytes, place: str, key: asyncssh.SSHKey) -> tuple[asyncssh.SSHCertificate, Certificate]:
    """The certificate of the key, in asyncssh's form, and its contents. Raises UnusableError."""
    line = key_text.public_key(content)
    try:
        found = certificates.parsed(binascii.a2b_base64(line.split()[1]))
    except (IndexError, ValueError):
        is_key = line is not content and b"-cert-v0" not in line
        why = "a public key, not a certificate" if is_key else "not a valid certificate (expected an OpenSSH one)"
        raise _invalid(f"{place} is {why}", "name the -cert.pub that ssh-keygen -s wrote") from None
    if found.key != public_keys.encoded(key):
        what = f"the certificate {place} is for another key than the configured one"
        raise _invalid(what, "name the certificate of this key, or the key of this certificate")
    if not found.for_users:
        fix = "name one for users (ssh-keygen -s without -h)"
        raise _invalid(f"{place} is a host certificate, which servers use", fix)
    check_validity(found, f"the certificate {place}")
    try:
        return asyncssh.import_certificate(line), found
    except ValueError as error:
        options = ", ".join(f"`{printable(name)}`" for name, _ in found.critical)
        why = f"its critical options are {options}" if options else printable(str(error))
        fix = "have one signed with no critical options but force-command and source-address"
        raise _invalid(f"the certificate {place} cannot be used by this program ({why})", fix) from None


def check_validity(certificate: Certificate, label: str) -> None:
    """Raises UnusableError if the certificate is not valid now."""
    now = time.time()
    if now < certificate.after:
        what = f"{label} is not valid before {_date(certificate.after)}"
        fix = "wait until then, or check the clock of this machine"
        raise UnusableError(Reason.CERTIFICATE_EXPIRED, what, fix, float(certificate.after))
    if certificate.before is not None and now >= certificate.before:
        what = f"{label} expired on {_date(certificate.before)}"
        raise UnusableError(Reason.CERTIFICATE_EXPIRED, what, "have a new one signed")


def refusal(offer: Offer, where: str, user: str) -> Failure | None:
    """The failure of a refused login that the certificate itself explains, None if it does not."""
    found = offer.certificate
    if found is None:
        return None
    what = f"{where} refused the login of {user} with {offer.label}"
    if not found.principals:
        fix = f"have one signed for {user} (ssh-keygen -n {user})"
        return Failure(Reason.AUTH, f"{what}, which names no user", fix)
    if user not in found.principals:
        names = and_more([printable(name) for name in found.principals], _NAMES_SHOWN)
        fix = f"correct `user`, have one signed for {user}, or see AuthorizedPrincipalsFile on the server"
        return Failure(Reason.AUTH, f"{what}, which is for {names}", fix)
    critical = dict(found.critical)
    if _SOURCE in critical:
        what = f"{what}, which allows logins from {printable(critical[_SOURCE])} only ({_SOURCE})"
        return Failure(Reason.AUTH, what, "log in from such an address, or have one signed for this one")
    return None


def forwarding_refusal(offer: Offer | None) -> str:
    """Return why a login with this key may not forward, "" if its certificate allows it."""
    found = offer.certificate if offer is not None else None
    if offer is None or found is None or _FORWARDING in found.extensions:
        return ""
    return f"{offer.label} lacks {_FORWARDING}"


def _date(wall: float) -> str:
    try:
        return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return "a date out of range"
