"""Error numbers and server messages that tell one cause from another, and escaping of text from outside the program."""

from __future__ import annotations

import errno
import os
import re

from reconciler.core.descriptor_budget import REMEDY
from reconciler.core.observed import Failure, Reason
from reconciler.core.text.printable import printable as escaped
from reconciler.system.redaction import redact

TEXT_MAX = 120  # characters of text from a server, a file or the system in a message

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
NO_ROUTE = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
)
FILTERED = frozenset({errno.EACCES, errno.EPERM})

# What servers send as the reason that a channel was not opened: strerror and gai_strerror of many systems.
SAYS_REFUSED = re.compile(r"refused|no such file", re.IGNORECASE)
SAYS_UNKNOWN_NAME = re.compile(
    r"not known|name resolution|no address associated|nodename nor servname|unknown host|no such host|resolv",
    re.IGNORECASE,
)
SAYS_TIMEOUT = re.compile(r"timed? ?out", re.IGNORECASE)
SAYS_NO_NETWORK = re.compile(r"network is unreachable|network unreachable", re.IGNORECASE)
SAYS_NO_ROUTE = re.compile(r"no route|unreachable|host is down", re.IGNORECASE)
SAYS_CLOSED = re.compile(r"^SSH connection closed", re.IGNORECASE)  # a message of asyncssh itself
# What servers send as the reason that they end a connection during the login.
SAYS_TOO_MANY_TRIES = re.compile(r"too many authentication failures", re.IGNORECASE)


def printable(text: str) -> str:
    """Text from outside the program in the form for a message: values of variables hidden, escaped, cut to TEXT_MAX."""
    return escaped(redact(text), TEXT_MAX)


def exhausted(code: int) -> Failure:
    """The failure for an error number of `EXHAUSTED`."""
    fix = REMEDY if code in (errno.EMFILE, errno.ENFILE) else "free memory on this machine"
    return Failure(Reason.RESOURCES, os.strerror(code), fix)
