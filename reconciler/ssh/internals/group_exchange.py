"""Diffie-Hellman group exchange (RFC 4419) with a limit for the cost of the server's group.

The server chooses the prime before its host key is checked. asyncssh passes any prime to OpenSSL, which tests it and
blocks the interpreter meanwhile (measured): 0.3 s for the smallest of OpenSSH's groups, 29 s for the largest, 7 s for
an odd number of 32,768 bits. Here a group has 2048 to 4096 bits, and the exponent is short, as in OpenSSH, which does
not test primes either: two exponentiations of at most 20 ms.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import asyncssh
from asyncssh import kex, kex_dh
from asyncssh.packet import UInt32

from reconciler.ssh.internals.packets import SSHPacket, payload
from reconciler.ssh.internals.seam import Seam

BITS_MIN, BITS_WANTED, BITS_MAX = 2048, 3072, 4096
EXPONENT_BITS = 512  # twice the strength of the largest hash used for keys, as in OpenSSH's dh_gen_key

_Exchange = kex_dh._KexDHGex  # noqa: SLF001 - asyncssh has no public seam for a method of key exchange
SEAMS = (
    Seam(kex, "_kex_handlers"),
    Seam(_Exchange, "_send_request", "self"),
    Seam(_Exchange, "_process_group", "self _pkttype _pktid packet"),
    Seam(_Exchange, "_perform_init", "self"),
    Seam(_Exchange, "_send_init", "self"),
    Seam(_Exchange, "_packet_handlers"),
    Seam(_Exchange, "_request_type"),
    Seam(_Exchange, "_gex_data"),
    Seam(_Exchange, "_g"),
    Seam(_Exchange, "_p"),
    Seam(_Exchange, "_e"),
    Seam(_Exchange, "_dh"),
)


class ShortExponent:
    """One side of an exchange, like asyncssh's class `DH`, for any modulus."""

    def __init__(self, generator: int, modulus: int) -> None:
        self._modulus = modulus
        self._secret = secrets.randbits(EXPONENT_BITS) | 1 << (EXPONENT_BITS - 1)
        self._public = pow(generator, self._secret, modulus)

    def get_public(self) -> int:
        """Return the public value, which is sent to the server."""
        return self._public

    def get_shared(self, peer: int) -> int:
        """Return the shared secret. Raises ProtocolError for a value that makes it predictable."""
        if not 1 < peer < self._modulus - 1:
            raise asyncssh.ProtocolError("the server's value for the key exchange is out of range")
        return pow(peer, self._secret, self._modulus)


class GroupExchange(_Exchange):
    """The client side of the exchange. asyncssh has the server side."""

    def _send_request(self) -> None:
        self._gex_data = b"".join(map(UInt32, (BITS_MIN, BITS_WANTED, BITS_MAX)))
        self.send_packet(self._request_type, self._gex_data)

    def _group(self, kind: int, number: int, packet: SSHPacket) -> None:
        """Accept the server's group. Raises ProtocolError for a bad one."""
        fields = payload(packet)
        modulus, generator = fields.get_mpint(), fields.get_mpint()
        if (
            not BITS_MIN - 1 <= modulus.bit_length() <= BITS_MAX
        ):  # some of OpenSSH's groups have one bit less than their name
            bits = f"{modulus.bit_length()} bits: expected {BITS_MIN} to {BITS_MAX}"
            raise asyncssh.ProtocolError(f"the server's group for the key exchange has {bits}")
        if modulus % 2 == 0 or not 1 < generator < modulus - 1:
            raise asyncssh.ProtocolError("the server's group for the key exchange is not a valid group")
        self._process_group(kind, number, packet)

    def _perform_init(self) -> None:
        self._dh: Any = ShortExponent(self._g, self._p)
        self._e = self._dh.get_public()
        self._send_init()

    _packet_handlers: Mapping[int, Callable[..., Any]] = {
        **_Exchange._packet_handlers,  # noqa: SLF001 - as above
        kex_dh.MSG_KEX_DH_GEX_GROUP: _group,
    }


@cache
def install() -> None:
    """Make asyncssh use this class for all connections of the process."""
    handlers = kex._kex_handlers  # noqa: SLF001 - as above; registering would add the names once more
    for name, (handler, hashing, arguments) in list(handlers.items()):
        if handler is _Exchange:
            handlers[name] = (GroupExchange, hashing, arguments)
