"""Ciphers that are unsafe without strict key exchange (Terrapin, CVE-2023-48795), on servers without it."""

from __future__ import annotations

import pytest
from asyncssh import connection

from integration.dialling import access, dialled, failure_of, hop
from reconciler.core.observed import Reason
from reconciler.core.spec import Algorithms
from support.asyncssh_server import AsyncsshServer
from support.sshd import Sshd

CHACHA = Algorithms(cipher=("chacha20-poly1305@openssh.com",), kex=(), mac=(), host_key=())
CBC = Algorithms(cipher=("aes128-cbc",), kex=(), mac=(), host_key=())
CBC_ETM = Algorithms(cipher=("aes128-cbc",), kex=(), mac=("hmac-sha2-256-etm@openssh.com",), host_key=())


@pytest.fixture
def no_strict_kex(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server from before 2023, without strict key exchange."""
    extra = connection.SSHConnection._get_extra_kex_algs
    monkeypatch.setattr(
        connection.SSHServerConnection,
        "_get_extra_kex_algs",
        lambda self: [name for name in extra(self) if not name.startswith(b"kex-strict")],
    )
    # asyncssh's server believes that both do it as soon as the client does.
    never = property(lambda _: False, lambda *_: None)
    monkeypatch.setattr(connection.SSHServerConnection, "_strict_kex", never, raising=False)


@pytest.mark.usefixtures("no_strict_kex")
async def test_chacha20_without_strict_key_exchange_is_refused(asyncssh_server: AsyncsshServer) -> None:
    asyncssh_server.options["encryption_algs"] = ["chacha20-poly1305@openssh.com"]
    failure = await failure_of(access(hop(asyncssh_server)))
    assert failure.reason is Reason.PROTOCOL
    assert "algorithms: {cipher: [chacha20-poly1305@openssh.com]}" in failure.message
    assert asyncssh_server.logins == 0
    async with dialled(access(hop(asyncssh_server, algorithms=CHACHA))):  # named in the file
        assert asyncssh_server.logins == 1


@pytest.mark.usefixtures("no_strict_kex")
async def test_a_safe_cipher_is_used_if_the_server_has_one(
    asyncssh_server: AsyncsshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.ssh.connect.algorithms.cpu_has_aes", lambda: False)  # ChaCha20 comes first
    async with dialled(access(hop(asyncssh_server))) as ours:
        assert "gcm" in str(ours.connection.get_extra_info("send_cipher"))


@pytest.mark.usefixtures("no_strict_kex")
async def test_chacha20_without_strict_key_exchange_is_refused_at_each_hop(
    asyncssh_server: AsyncsshServer, sshd: Sshd
) -> None:
    asyncssh_server.options["encryption_algs"] = ["chacha20-poly1305@openssh.com"]
    failure = await failure_of(access(hop(sshd), hop(asyncssh_server)))
    assert (failure.reason, "jump host 1" in failure.message) == (Reason.PROTOCOL, True)


@pytest.mark.usefixtures("no_strict_kex")
async def test_cbc_with_encrypt_then_mac_is_refused_unless_the_mac_is_named(asyncssh_server: AsyncsshServer) -> None:
    asyncssh_server.options["encryption_algs"] = ["aes128-cbc"]
    async with dialled(access(hop(asyncssh_server, algorithms=CBC))) as ours:  # it has a plain MAC, too
        assert "-etm@" not in str(ours.connection.get_extra_info("send_mac"))
    asyncssh_server.options["mac_algs"] = ["hmac-sha2-256-etm@openssh.com"]
    failure = await failure_of(access(hop(asyncssh_server, algorithms=CBC)))
    assert "algorithms: {mac: [hmac-sha2-256-etm@openssh.com]}" in failure.message
    async with dialled(access(hop(asyncssh_server, algorithms=CBC_ETM))):
        pass


async def test_chacha20_with_strict_key_exchange_is_fine(asyncssh_server: AsyncsshServer) -> None:
    asyncssh_server.options["encryption_algs"] = ["chacha20-poly1305@openssh.com"]
    async with dialled(access(hop(asyncssh_server))):
        pass
