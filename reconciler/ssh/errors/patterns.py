"""How others put it: error numbers and words that tell one cause from another, and foreign text made fit to show."""

from __future__ import annotations

import errno
import os
import re

from reconciler.core.descriptor_budget import REMEDY
from reconciler.core.observed import Failure, Reason
from reconciler.core.printable import printable as escaped
from reconciler.system.redaction import redact

TEXT_MAX = 120  # characters of foreign text in a sentence

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
NO_ROUTE = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
)
FILTERED = frozenset({errno.EACCES, errno.EPERM})

# The server's words for why a channel was not opened: strerror and gai_strerror of many systems.
SAYS_REFUSED = re.compile(r"refused|no such file", re.IGNORECASE)
SAYS_UNKNOWN_NAME = re.compile(
    r"not known|name resolution|no address associated|nodename nor servname|unknown host|no such host|resolv",
    re.IGNORECASE,
)
SAYS_TIMEOUT = re.compile(r"timed? ?out", re.IGNORECASE)
SAYS_NO_NETWORK = re.compile(r"network is unreachable|network unreachable", re.IGNORECASE)
SAYS_NO_ROUTE = re.compile(r"no route|unreachable|host is down", re.IGNORECASE)
SAYS_CLOSED = re.compile(r"^SSH connection closed", re.IGNORECASE)  # asyncssh's own words
SAYS_FORWARDING_IS_OFF = re.compile(
    r"disabled (port|streamlocal) forwarding|forwarding (is )?(disabled|refused)", re.IGNORECASE
)


def printable(text: str) -> str:
    """Text from elsewhere, for a sentence: without values of variables, escaped, and not too long."""
    return escaped(redact(text), TEXT_MAX)


def exhausted(code: int) -> Failure:
    """For an error number of `EXHAUSTED`."""
    hint = REMEDY if code in (errno.EMFILE, errno.ENFILE) else "the system is full"
    return Failure(Reason.RESOURCES, f"{os.strerror(code)}: {hint}")
