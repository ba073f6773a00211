"""A key to offer to a server, with its name in messages, its certificate and its signer."""

from __future__ import annotations

from dataclasses import dataclass, field

import asyncssh

from reconciler.ssh.internals.keys.certificates import Certificate
from reconciler.ssh.internals.keys.signatures import Signer


@dataclass(frozen=True, slots=True)
class Offer:
    """One key to offer.

    label        its name in messages, such as `key PATH`, `the certificate PATH` or `agent PATH: COMMENT`
    certificate  the contents of its certificate, None for a plain key
    agent        the socket of the agent that signs with it, "" for a key that this process has
    """

    pair: asyncssh.SSHKeyPair
    label: str
    certificate: Certificate | None = None
    agent: str = ""
    signer: Signer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signer", Signer(self.pair))

    @property
    def expires(self) -> float | None:
        """The end of its certificate (wall), None without one."""
        before = self.certificate.before if self.certificate is not None else None
        return None if before is None else float(before)
