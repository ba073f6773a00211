"""The signatures of the login: which one a key makes, which ones the server announced, and whether signing failed.

asyncssh chooses by itself, skips a key silently if nothing fits, and only logs a failure to sign.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncssh
from asyncssh.agent import SSHAgentKeyPair
from asyncssh.public_key import SSHLocalKeyPair

from reconciler.ssh.internals.keys.public_keys import signature_names
from reconciler.ssh.internals.seam import Seam

SEAMS = (
    Seam(asyncssh.SSHClientConnection, "_server_sig_algs"),
    Seam(asyncssh.SSHKeyPair, "algorithm"),
    Seam(asyncssh.SSHKeyPair, "sig_algorithms"),
    Seam(asyncssh.SSHKeyPair, "set_sig_algorithm", "self sig_algorithm"),
    Seam(SSHAgentKeyPair, "sign_async", "self data"),
    Seam(SSHAgentKeyPair, "_flags"),
    Seam(SSHLocalKeyPair, "sign", "self data"),
)


def announced(connection: asyncssh.SSHClientConnection) -> frozenset[str] | None:
    """Return the signatures that the server takes (RFC 8308, server-sig-algs), None if it does not say."""
    names = connection._server_sig_algs  # noqa: SLF001 - see the module's docstring
    return frozenset(name.decode("ascii", "replace") for name in names if name) or None


class Signer:
    """Makes a key pair sign in the chosen way."""

    def __init__(self, pair: asyncssh.SSHKeyPair) -> None:
        self.pair = pair
        self.names = signature_names(pair)
        self._algorithm = pair.algorithm

    def choose(self, name: str, failed: Callable[[str], None]) -> None:
        """Sign with this algorithm from now on, and call `failed` with the reason if that is not possible."""
        pair: Any = self.pair  # Any: asyncssh has no way to do this
        pair.algorithm = self._algorithm  # as before the previous connection
        pair._flags = 0  # noqa: SLF001 - an agent's pair collects the algorithms that were chosen in it
        pair.sig_algorithms = (name.encode("ascii"),)
        pair.set_sig_algorithm(name.encode("ascii"))
        if isinstance(self.pair, SSHAgentKeyPair):
            pair.sign_async = _reporting_async(self.pair, failed)
        else:
            pair.sign = _reporting(self.pair, failed)


def _reporting_async(pair: SSHAgentKeyPair, failed: Callable[[str], None]) -> Callable[[bytes], Any]:
    async def sign(data: bytes) -> bytes:
        try:
            return await type(pair).sign_async(pair, data)
        except Exception as error:
            failed(str(error))
            raise ValueError(str(error)) from error  # then asyncssh goes on to the next key

    return sign


def _reporting(pair: asyncssh.SSHKeyPair, failed: Callable[[str], None]) -> Callable[[bytes], bytes]:
    def sign(data: bytes) -> bytes:
        try:
            return type(pair).sign(pair, data)
        except Exception as error:
            failed(str(error))
            raise ValueError(str(error)) from error  # as above

    return sign
