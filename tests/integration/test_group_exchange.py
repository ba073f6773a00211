"""Diffie-Hellman group exchange: the group that a server chooses does not delay other links."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from asyncssh import kex_dh
from asyncssh.packet import MPInt

from integration.dialling import access, dialled, failure_of, hop
from reconciler.core.observed import Reason
from reconciler.core.spec import Algorithms
from reconciler.ssh.internals import group_exchange
from reconciler.ssh.internals.group_exchange import ShortExponent
from support.asyncssh_server import AsyncsshServer
from support.sshd import Sshd

GROUP_EXCHANGE = Algorithms(cipher=(), kex=("diffie-hellman-group-exchange-sha256",), mac=(), host_key=())


async def test_the_prime_of_a_group_is_not_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL's test of a prime of 4095 bits takes seconds. Without OpenSSH's file sshd uses a known group."""

    def parameters(*_numbers: int) -> None:
        raise AssertionError("OpenSSL tests the prime of the group")

    monkeypatch.setattr(kex_dh, "DH", parameters)
    moduli, own = Path("/etc/ssh/moduli"), tmp_path / "moduli"
    lines = moduli.read_text().splitlines(keepends=True) if moduli.exists() else []
    own.write_text(next((line for line in lines if " 4095 " in line), ""))
    options = {"KexAlgorithms": GROUP_EXCHANGE.kex[0], "ModuliFile": str(own)}
    async with Sshd(tmp_path / "sshd", options=options) as sshd:
        async with dialled(access(hop(sshd, algorithms=GROUP_EXCHANGE))) as ours:
            assert ours.connection.get_extra_info("send_cipher")


@pytest.mark.parametrize(
    ("modulus", "generator", "said"),
    [
        ((1 << 32_768) - 12_345, 2, "has 32768 bits: expected 2048 to 4096"),
        (kex_dh._group18_p, 2, "has 8192 bits"),
        (kex_dh._group1_p, 2, "has 1024 bits"),
        (1 << 3000, 3, "is not a valid group"),
        (kex_dh._group14_p, 1, "is not a valid group"),
        (kex_dh._group14_p, kex_dh._group14_p - 1, "is not a valid group"),
        (-kex_dh._group14_p, 2, "is not a valid group"),
    ],
    ids=["32768", "8192", "1024", "even", "generator-1", "generator-p-1", "negative"],
)
async def test_a_group_that_is_too_large_or_too_weak_is_refused(
    asyncssh_server: AsyncsshServer, monkeypatch: pytest.MonkeyPatch, modulus: int, generator: int, said: str
) -> None:
    def answer(self: Any, _kind: int, _number: int, packet: Any) -> None:
        packet.get_remaining_payload()
        self.send_packet(self._group_type, MPInt(modulus), MPInt(generator))

    handlers = dict.fromkeys((kex_dh.MSG_KEX_DH_GEX_REQUEST, kex_dh.MSG_KEX_DH_GEX_REQUEST_OLD), answer)
    group_exchange.install()
    monkeypatch.setattr(
        group_exchange.GroupExchange, "_packet_handlers", {**group_exchange.GroupExchange._packet_handlers, **handlers}
    )
    failure = await failure_of(access(hop(asyncssh_server, algorithms=GROUP_EXCHANGE)))
    assert failure.reason is Reason.PROTOCOL
    assert said in failure.message


def test_both_sides_of_a_short_exponent_agree() -> None:
    one, other = (ShortExponent(2, kex_dh._group14_p) for _ in range(2))
    assert one.get_shared(other.get_public()) == other.get_shared(one.get_public())
