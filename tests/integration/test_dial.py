"""Dialling real servers, healthy and not: hosts in order, jump hosts, proxy commands, deadlines, and giving up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import asyncssh
import pytest
import yaml

from integration.dialling import OURS, access, dialled, failure_of, hop, key_login, settings, strict, trust, works
from reconciler.core.observed import Reason
from reconciler.core.spec import Access, Algorithms, Endpoint, TrustMode
from reconciler.ssh.connect.dial import credential_files, dial, fingerprint
from reconciler.ssh.connect.login_limiter import HANDSHAKES_AT_ONCE
from reconciler.ssh.internals.carrier import JumpChannel
from support.asyncssh_server import AsyncsshServer
from support.dropbear import Dropbear, DropbearUnavailableError
from support.faults import Blackhole, CloseOnAccept, SilentListener, TcpProxy
from support.keys import Keys
from support.processes import children
from support.services import RefusingPort, TcpService
from support.sshd import Sshd
from support.wait import WITHIN, eventually, fd_count

# A proxy command that needs nothing but Python: standard input and output are the connection.
RELAY = """
import os, socket, sys, threading
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def up():
    while data := os.read(0, 65536):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := sock.recv(65536):
    os.write(1, data)
"""


RESOLVED = 60.0  # seconds: where no name server answers, the resolver itself gives up after ten or more


# --- one server -------------------------------------------------------------------------------------------------


async def test_a_connection_is_made_and_closed_without_a_trace(sshd: Sshd) -> None:
    before, began = fd_count(), time.monotonic()
    async with dialled(access(hop(sshd))) as result:
        assert await works(result.connection)
        assert (result.host, result.hops, result.host_key_verified) == (0, (), True)
        assert 0 < result.seconds <= time.monotonic() - began
    await eventually(lambda: sshd.sessions() == 0)
    await eventually(lambda: fd_count() <= before)


async def test_it_works_with_dropbear(tmp_path: Path) -> None:
    try:
        async with Dropbear(tmp_path / "dropbear") as server, dialled(access(hop(server))) as result:
            assert await works(result.connection)
    except DropbearUnavailableError as missing:
        pytest.skip(str(missing))


async def test_the_offer_puts_the_fast_cipher_and_the_post_quantum_exchange_first(tmp_path: Path) -> None:
    async with AsyncsshServer(tmp_path / "server") as server, dialled(access(hop(server))) as result:
        assert "gcm" in result.connection.get_extra_info("send_cipher")
        offer = result.connection.get_hash_prefix()
        assert 0 < offer.find(b"mlkem768x25519-sha256") < offer.find(b"curve25519-sha256")


async def test_an_unsupported_algorithm_is_named(sshd: Sshd) -> None:
    failure = await failure_of(access(hop(sshd, algorithms=replace(OURS, cipher=("rot13",)))))
    assert failure.reason is Reason.PROTOCOL
    assert "cipher: rot13" in failure.message


async def test_chosen_algorithms_and_compression_are_used(sshd: Sshd) -> None:
    chosen = replace(OURS, cipher=("aes256-ctr",), mac=("hmac-sha2-512",), kex=("curve25519-sha256",))
    async with dialled(access(hop(sshd, algorithms=chosen, compress=True))) as result:
        info = result.connection.get_extra_info
        assert (info("send_cipher"), info("send_mac")) == ("aes256-ctr", "hmac-sha2-512")
        assert info("send_compression") == "zlib@openssh.com"


async def test_the_client_object_gets_one_start_and_one_end(sshd: Sshd) -> None:
    heard: list[str] = []

    class Client(asyncssh.SSHClient):
        def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
            heard.append("made")

        def connection_lost(self, exc: Exception | None) -> None:
            heard.append(f"lost {type(exc).__name__}")

    with RefusingPort() as nobody:
        hosts = (Endpoint("127.0.0.1", nobody.port), Endpoint(sshd.host, sshd.port))
        async with dialled(access(hop(sshd, hosts=hosts)), client=Client):
            assert heard == ["made"]
            await sshd.kill_sessions()
            await eventually(lambda: len(heard) == 2)
    # Which one is a matter of the moment: what is written to a socket that was shut down there makes it a broken pipe.
    assert heard[1] in {"lost ConnectionLost", "lost ConnectionResetError", "lost BrokenPipeError"}


async def test_debug_messages_of_the_server_reach_the_client_object(tmp_path: Path) -> None:
    """OpenSSH reports a forbidden remote forward in no other way."""
    said: list[str] = []

    class Client(asyncssh.SSHClient):
        def debug_msg_received(self, msg: str, lang: str, always_display: bool) -> None:
            said.append(msg)

    async with Sshd(tmp_path / "sshd", options={"AllowTcpForwarding": "no"}) as sshd:
        async with dialled(access(hop(sshd)), client=Client) as result:
            with pytest.raises(asyncssh.ChannelListenError):
                await result.connection.create_server(lambda _host, _port: False, "127.0.0.1", 0)
    assert "Server has disabled port forwarding." in said


# --- what goes wrong --------------------------------------------------------------------------------------------


async def test_a_refused_connection(sshd: Sshd) -> None:
    with RefusingPort() as nobody:
        failure = await failure_of(access(hop(sshd, hosts=(Endpoint(nobody.host, nobody.port),))))
    assert failure.reason is Reason.REFUSED
    assert f"{nobody.host}:{nobody.port}" in failure.message


@pytest.mark.parametrize("name", ["no-such-host.invalid", "a..b", "x" * 64 + ".invalid"])
async def test_a_name_that_is_not_resolved(sshd: Sshd, name: str) -> None:
    to = access(hop(sshd, hosts=(Endpoint(name, 22),)))
    assert (await failure_of(to, connect_timeout=RESOLVED)).reason is Reason.DNS


async def test_an_address_that_never_answers(sshd: Sshd) -> None:
    with Blackhole() as hole:
        failure = await failure_of(access(hop(sshd, hosts=(Endpoint(hole.host, hole.port),))), connect_timeout=2)
    assert failure.reason is Reason.TIMEOUT
    assert "did not answer within 2 s" in failure.message


async def test_a_listener_that_sends_nothing(sshd: Sshd) -> None:
    before = fd_count()
    async with SilentListener() as silent:
        failure = await failure_of(access(hop(sshd, hosts=(Endpoint(silent.host, silent.port),))), connect_timeout=2)
        await eventually(lambda: silent.connections == 0)
    assert failure.reason is Reason.TIMEOUT
    assert "sent nothing" in failure.message
    await eventually(lambda: fd_count() <= before)


@pytest.mark.parametrize("resets", [False, True])
async def test_a_server_that_closes_before_its_banner_is_busy(sshd: Sshd, resets: bool) -> None:
    async with CloseOnAccept(resets=resets) as server:
        failure = await failure_of(access(hop(sshd, hosts=(Endpoint(server.host, server.port),))))
    assert failure.reason is Reason.SERVER_BUSY


async def test_a_server_that_is_stopped_in_the_handshake(sshd: Sshd) -> None:
    async with TcpProxy(sshd.host, sshd.port) as proxy:
        sshd.pause()
        try:
            to = hop(sshd, hosts=(Endpoint(proxy.host, proxy.port),), trust=trust(TrustMode.OFF))
            failure = await failure_of(access(to), connect_timeout=2)
        finally:
            sshd.resume()
    assert failure.reason is Reason.TIMEOUT


@pytest.mark.filterwarnings("ignore:Diffie-Hellman over finite fields:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Diffie-Hellman over finite fields:UserWarning")
async def test_no_common_key_exchange_names_what_the_server_offers(tmp_path: Path) -> None:
    async with Sshd(tmp_path / "sshd", options={"KexAlgorithms": "diffie-hellman-group14-sha1"}) as sshd:
        failure = await failure_of(access(hop(sshd)))
        old = replace(OURS, kex=("diffie-hellman-group14-sha1",))
        async with dialled(access(hop(sshd, algorithms=old))) as result:
            assert await works(result.connection)
    assert failure.reason is Reason.PROTOCOL
    assert "share no key exchange; the server offers kex: diffie-hellman-group14-sha1: update" in failure.message
    assert "`algorithms: {kex: [diffie-hellman-group14-sha1]}`" in failure.message


async def test_no_common_host_key_type_names_what_the_server_offers(tmp_path: Path) -> None:
    rsa = Keys(tmp_path).make("rsa", kind="ssh-rsa")
    options = {"HostKey": str(rsa.private), "HostKeyAlgorithms": "ssh-rsa"}
    async with Sshd(tmp_path / "sshd", options=options) as sshd:
        off = trust(TrustMode.OFF)
        failure = await failure_of(access(hop(sshd, trust=off)))
        old = replace(OURS, host_key=("ssh-rsa",))
        async with dialled(access(hop(sshd, trust=off, algorithms=old))) as result:
            assert await works(result.connection)
    assert failure.reason is Reason.PROTOCOL
    assert "share no host key type; the server offers hostKey: ssh-rsa: update" in failure.message
    assert "`algorithms: {hostKey: [ssh-rsa]}`" in failure.message


@pytest.mark.filterwarnings("ignore:Diffie-Hellman over finite fields:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Diffie-Hellman over finite fields:UserWarning")
async def test_all_missing_algorithms_are_listed_with_yaml_that_logs_in(tmp_path: Path) -> None:
    rsa = Keys(tmp_path).make("rsa", kind="ssh-rsa")
    options = {
        "HostKey": str(rsa.private),
        "HostKeyAlgorithms": "ssh-rsa",
        "KexAlgorithms": "diffie-hellman-group1-sha1,diffie-hellman-group14-sha1",
        "Ciphers": "3des-cbc,aes128-cbc,aes256-cbc",
        "MACs": "hmac-md5,hmac-sha1-96",
    }
    off = trust(TrustMode.OFF)
    async with Sshd(tmp_path / "sshd", options=options) as sshd:
        failure = await failure_of(access(hop(sshd, trust=off)))
        assert failure.reason is Reason.PROTOCOL
        assert (
            "share no key exchange and no host key type and no cipher and no MAC; the server offers" in failure.message
        )
        assert "cipher: 3des-cbc, aes128-cbc, aes256-cbc; mac: hmac-md5, hmac-sha1-96" in failure.message
        pasted = yaml.safe_load(failure.advice.split("`")[1])["algorithms"]
        chosen = Algorithms(*(tuple(pasted[kind]) for kind in ("cipher", "kex", "mac", "hostKey")))
        async with dialled(access(hop(sshd, trust=off, algorithms=chosen))) as result:
            assert await works(result.connection)
        # What the file names already stays in the YAML, and is no longer missing.
        some = replace(OURS, cipher=("aes256-ctr",), kex=chosen.kex)
        failure = await failure_of(access(hop(sshd, trust=off, algorithms=some)))
        assert "share no host key type and no cipher and no MAC;" in failure.message
        assert "{cipher: [aes256-ctr, aes256-cbc], kex: [diffie-hellman-group14-sha1], mac: [" in failure.advice


@pytest.mark.parametrize("mac", ["hmac-sha1", "umac-64@openssh.com"])
async def test_a_mac_that_ssh_offers_is_offered(tmp_path: Path, mac: str) -> None:
    async with (
        Sshd(tmp_path / "sshd", options={"Ciphers": "aes256-ctr", "MACs": mac}) as sshd,
        dialled(access(hop(sshd))) as result,
    ):
        assert await works(result.connection)


@pytest.mark.parametrize(
    ("index", "kind", "field"),
    [
        (0, "key exchange", "kex"),
        (1, "host key type", "hostKey"),
        (2, "cipher", "cipher"),
        (4, "MAC", "mac"),
        (6, "compression", "compression"),
    ],
)
async def test_a_server_that_closes_over_the_offers_is_reported_with_its_offer(
    index: int, kind: str, field: str
) -> None:
    """The server may close before asyncssh compares the offers."""
    offers = ["curve25519-sha256", "ssh-ed25519", *["aes256-ctr"] * 2, *["hmac-sha2-256"] * 2, "none", "none", "", ""]
    offers[index] = "only-this-one"

    async with Greeter(b"SSH-2.0-hasty\r\n" + kexinit(offers)) as server:
        fake = AsyncsshServerStub(server.port)
        failure = await failure_of(access(hop(fake, trust=trust(TrustMode.OFF), logins=())))
    assert failure.reason is Reason.PROTOCOL
    assert f"share no {kind}; the server offers {field}: only-this-one: update the server: " in failure.message
    assert failure.message.endswith(f"this program supports none of these for {field}")


def kexinit(offers: Sequence[str]) -> bytes:
    """An SSH_MSG_KEXINIT in a packet that is not encrypted (RFC 4253 sections 6 and 7.1)."""
    lists = b"".join(len(offer).to_bytes(4) + offer.encode() for offer in offers)
    payload = b"\x14" + bytes(16) + lists + bytes(5)
    padding = 4 + -(5 + len(payload) + 4) % 8
    return (1 + len(payload) + padding).to_bytes(4) + bytes([padding]) + payload + bytes(padding)


async def test_a_banner_full_of_control_characters_is_escaped() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-1.5-\x1b[2Jold\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        fake = AsyncsshServerStub(port)
        failure = await failure_of(access(hop(fake, trust=trust(TrustMode.OFF), logins=())))
    assert failure.reason is Reason.PROTOCOL
    assert failure.message.isprintable()


# --- what is said in place of a banner --------------------------------------------------------------------------


class Greeter(TcpService):
    """A server that sends this at once, then closes or waits for the client to close."""

    def __init__(self, said: bytes, *, closes: bool = True) -> None:
        super().__init__()
        self.said, self.closes = said, closes

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.said)
        await writer.drain()
        if not self.closes:
            await reader.read()


class Announcing(TcpProxy):
    """A server that sends text before the banner."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"Too many lines are denied here\r\n" * 3)
        await super().serve(reader, writer)


@pytest.mark.parametrize("through_a_jump_host", [False, True])
@pytest.mark.parametrize(
    ("said", "closes", "quoted"),
    [
        (
            b"HTTP/1.1 403 Forbidden: access denied\r\nServer: x\r\n\r\n",
            True,
            "`HTTP/1.1 403 Forbidden: access denied`",
        ),
        (b"220 mail.example.com ESMTP\r\n", False, "`220 mail.example.com ESMTP`"),
        (b"421 Too many connections, try again later\r\n", True, "`421 Too many connections, try again later`"),
        (b"J\x00\x00\x00\x0a8.0.32\x00", False, "`J\\x00\\x00\\x00`"),
        (b"\x15\x03\x01\x00\x02\x02F", True, "in TLS"),
        (b"\x1b[2J" * 400, True, "`\\x1b[2J\\x1b"),
    ],
)
async def test_a_server_that_is_not_ssh_is_quoted(
    sshd: Sshd, said: bytes, closes: bool, quoted: str, through_a_jump_host: bool
) -> None:
    async with Greeter(said, closes=closes) as server:
        to = hop(sshd, hosts=(Endpoint(server.host, server.port),))
        way = access(to, hop(sshd)) if through_a_jump_host else access(to)
        failure = await failure_of(way, connect_timeout=10 if closes else 3)
    assert failure.reason is Reason.PROTOCOL
    assert f"{server.port} answered {quoted}" in failure.message
    assert failure.message.endswith("which is not SSH: correct the port")
    assert failure.message.isprintable()
    assert len(failure.message) < 250


@pytest.mark.parametrize("said", [b"Exceeded MaxStartups\r\n", b"Not allowed at this time\r\n", b"you are BLOCKED\n"])
async def test_a_server_that_refuses_in_its_greeting_is_quoted(sshd: Sshd, said: bytes) -> None:
    async with Greeter(said) as server:
        failure = await failure_of(access(hop(sshd, hosts=(Endpoint(server.host, server.port),))))
    assert failure.reason is Reason.SERVER_BUSY
    assert f"answered `{said.decode().strip()}`" in failure.message


async def test_sshd_above_max_startups_is_quoted(tmp_path: Path) -> None:
    async with Sshd(tmp_path / "sshd", options={"MaxStartups": "1:100:1"}) as sshd:
        reader, writer = await asyncio.open_connection(sshd.host, sshd.port)
        assert (await reader.readline()).startswith(b"SSH-2.0-")
        failure = await failure_of(access(hop(sshd)))
        writer.close()
    assert failure.reason is Reason.SERVER_BUSY
    # The second text is of OpenSSH 9.8 and later.
    assert re.search("answered `(Exceeded MaxStartups|Not allowed at this time)`", failure.message)


async def test_a_partial_banner_counts_as_ssh(sshd: Sshd) -> None:
    async with Greeter(b"S", closes=False) as one, Greeter(b"Welcome\r\nSSH-2.0-Op", closes=False) as other:
        ways = [access(hop(sshd, hosts=(Endpoint(server.host, server.port),))) for server in (one, other)]
        failures = await asyncio.gather(*(failure_of(way, connect_timeout=2) for way in ways))
    assert [failure.reason for failure in failures] == [Reason.TIMEOUT] * 2


async def test_lines_before_the_banner_do_no_harm(sshd: Sshd) -> None:
    """As RFC 4253 section 4.2 allows."""
    async with Announcing(sshd.host, sshd.port) as server:
        to = hop(sshd, hosts=(Endpoint(server.host, server.port),), trust=trust(TrustMode.OFF))
        async with dialled(access(to)) as result:
            assert await works(result.connection)


class AsyncsshServerStub:
    """The attributes that `hop` reads, for an address without a server."""

    def __init__(self, port: int) -> None:
        self.host, self.port, self.user = "127.0.0.1", port, "nobody"
        self.known_hosts = self.client_key = Path("/dev/null")


# --- several hosts ----------------------------------------------------------------------------------------------


async def test_hosts_are_tried_in_order_up_to_the_limit(sshd: Sshd) -> None:
    with RefusingPort() as nobody:
        to = access(hop(sshd, hosts=(Endpoint("127.0.0.1", nobody.port), Endpoint(sshd.host, sshd.port))))
        async with dialled(to) as result:
            assert result.host == 1
        assert (await failure_of(to, limit=1)).reason is Reason.REFUSED


async def test_of_several_failures_the_most_significant_one_is_shown(sshd: Sshd, keys: Keys) -> None:
    """It has the slowest backoff: a host that refuses the key must not be dialled every 200 ms."""
    with RefusingPort() as nobody:
        hosts = (Endpoint("127.0.0.1", nobody.port), Endpoint(sshd.host, sshd.port), Endpoint("x.invalid", 22))
        stranger = key_login(keys.make("stranger").private)
        to = access(hop(sshd, hosts=hosts, logins=(stranger,)))
        failure = await failure_of(to, connect_timeout=RESOLVED)
    assert failure.reason is Reason.AUTH


async def test_an_address_that_never_answers_costs_no_time_where_another_does(
    sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blackhole is the first address of the name, on the port of the server."""
    resolve = socket.getaddrinfo

    def two_addresses(host: str, *args: int, **kwargs: int) -> list[object]:
        if host == "two.test":
            if kwargs.get("flags"):
                raise socket.gaierror(socket.EAI_NONAME, "not numeric")
            return [*resolve("127.0.0.2", *args, **kwargs), *resolve("127.0.0.1", *args, **kwargs)]
        return list(resolve(host, *args, **kwargs))

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)
    with Blackhole("127.0.0.2", sshd.port):
        to = hop(sshd, hosts=(Endpoint("two.test", sshd.port),), trust=trust(TrustMode.OFF))
        # One after the other, the one that does not answer would use up all of it, which the test does not wait for.
        async with dialled(access(to), connect_timeout=3600) as result:
            assert result.connection.get_extra_info("peername")[0] == "127.0.0.1"


# --- jump hosts -------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def three_servers(tmp_path: Path) -> AsyncIterator[tuple[Sshd, Sshd, Sshd]]:
    async with Sshd(tmp_path / "a") as a, Sshd(tmp_path / "b") as b, Sshd(tmp_path / "c") as c:
        yield a, b, c


async def test_a_chain_of_jump_hosts_each_with_a_key_of_its_own(tmp_path: Path) -> None:
    before = fd_count()
    async with three_servers(tmp_path) as (a, b, c):
        async with dialled(access(hop(c), hop(a), hop(b))) as result:
            assert await works(result.connection)
            assert len(result.hops) == 2
            assert [server.sessions() for server in (a, b, c)] == [1, 1, 1]
        assert all(jump.is_closed() for jump in result.hops)
        await eventually(lambda: [server.sessions() for server in (a, b, c)] == [0, 0, 0])
    await eventually(lambda: fd_count() <= before)


async def test_losing_a_jump_host_ends_the_connection(tmp_path: Path) -> None:
    async with three_servers(tmp_path) as (a, b, c), dialled(access(hop(c), hop(a), hop(b))) as result:
        await b.kill_sessions()
        await asyncio.wait_for(result.connection.wait_closed(), 30)
        await eventually(lambda: [server.sessions() for server in (a, b, c)] == [0, 0, 0])


async def test_the_failing_jump_host_is_named(tmp_path: Path, keys: Keys) -> None:
    async with three_servers(tmp_path) as (a, b, c):
        stranger = (key_login(keys.make("stranger").private),)
        second = await failure_of(access(hop(c), hop(a), hop(b, logins=stranger)))
        assert second.reason is Reason.AUTH
        assert second.message.startswith(f"jump host 2 ({b.host}:{b.port})")
        untrusted = await failure_of(access(hop(c), hop(a, trust=strict(b.known_hosts)), hop(b)))
        assert untrusted.reason is Reason.HOST_KEY
        assert f"jump host 1 ({a.host}:{a.port})" in untrusted.message
        await eventually(lambda: [server.sessions() for server in (a, b, c)] == [0, 0, 0])


async def test_failures_behind_a_jump_host_have_different_reasons(tmp_path: Path, sshd: Sshd) -> None:
    with RefusingPort() as nobody:
        refused = hop(sshd, hosts=(Endpoint("127.0.0.1", nobody.port),))
        assert (await failure_of(access(refused, hop(sshd)))).reason is Reason.REFUSED
    unknown = hop(sshd, hosts=(Endpoint("no-such-host.invalid", 22),))
    assert (await failure_of(access(unknown, hop(sshd)), connect_timeout=RESOLVED)).reason is Reason.DNS
    with Blackhole() as hole:
        silent = hop(sshd, hosts=(Endpoint(hole.host, hole.port),))
        assert (await failure_of(access(silent, hop(sshd)), connect_timeout=3)).reason is Reason.TIMEOUT
    async with Sshd(tmp_path / "closed", options={"AllowTcpForwarding": "no"}) as closed:
        failure = await failure_of(access(hop(sshd), hop(closed)))
    assert failure.reason is Reason.FORBIDDEN_BY_SERVER


async def test_a_second_host_is_reached_through_the_same_jump_host(tmp_path: Path) -> None:
    async with three_servers(tmp_path) as (a, b, _):
        with RefusingPort() as nobody:
            hosts = (Endpoint("127.0.0.1", nobody.port), Endpoint(b.host, b.port))
            async with dialled(access(hop(b, hosts=hosts), hop(a))) as result:
                assert (result.host, a.sessions()) == (1, 1)


# --- proxy commands ---------------------------------------------------------------------------------------------


def command(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", *arguments)


async def test_a_proxy_command_carries_the_connection_and_ends_with_it(sshd: Sshd) -> None:
    before = fd_count()
    async with dialled(access(hop(sshd), proxy_command=command(RELAY, "%h", "%p"))) as result:
        assert await works(result.connection)
    await eventually(lambda: fd_count() <= before)
    await eventually(lambda: sshd.sessions() == 0)


async def test_a_proxy_command_that_is_a_shell_ends_with_its_children(sshd: Sshd) -> None:
    ours = set(children(os.getpid()))
    shell = ("sh", "-c", '"$0" -c "$1" %h %p & sleep 1000; wait', sys.executable, RELAY)
    # a background job of sh reads /dev/null: hand it the connection as it is
    shell = ("sh", "-c", 'exec 3<&0; "$0" -c "$1" %h %p <&3 & sleep 1000; wait', *shell[3:])
    async with dialled(access(hop(sshd), proxy_command=shell)) as result:
        assert await works(result.connection)
    await eventually(lambda: set(children(os.getpid())) <= ours)


async def test_a_proxy_command_that_fails_is_quoted(sshd: Sshd) -> None:
    bad = command("import sys; print('noise\\nno such instance \\x1b[2J', file=sys.stderr); sys.exit(7)")
    failure = await failure_of(access(hop(sshd), proxy_command=bad))
    assert failure.reason is Reason.UNREACHABLE
    assert "ended with status 7" in failure.message
    assert "no such instance" in failure.message
    assert failure.message.isprintable()


async def test_a_refused_login_through_a_proxy_command_is_a_refused_login(sshd: Sshd, keys: Keys) -> None:
    """The program ends too, but that is not the cause."""
    stranger = hop(sshd, logins=(key_login(keys.make("stranger").private),))
    assert (await failure_of(access(stranger, proxy_command=command(RELAY, "%h", "%p")))).reason is Reason.AUTH


async def test_a_busy_server_behind_a_proxy_command_is_a_busy_server(sshd: Sshd) -> None:
    async with CloseOnAccept() as busy:
        to = hop(sshd, hosts=(Endpoint(busy.host, busy.port),))
        assert (await failure_of(access(to, proxy_command=command(RELAY, "%h", "%p")))).reason is Reason.SERVER_BUSY


async def test_standard_error_of_a_proxy_command_does_no_harm(sshd: Sshd) -> None:
    noisy = "import sys; print('connected', file=sys.stderr, flush=True)\n" + RELAY
    async with dialled(access(hop(sshd), proxy_command=command(noisy, "%h", "%p"))) as result:
        assert await works(result.connection)


async def test_a_proxy_command_that_is_not_there(sshd: Sshd) -> None:
    failure = await failure_of(access(hop(sshd), proxy_command=("/no/such/program",)))
    assert failure.reason is Reason.UNREACHABLE
    assert "/no/such/program" in failure.message


async def test_a_silent_proxy_command_is_ended_at_the_deadline(sshd: Sshd) -> None:
    failure = await failure_of(access(hop(sshd), proxy_command=("sleep", "1000")), connect_timeout=2)
    assert failure.reason is Reason.TIMEOUT


# --- giving up --------------------------------------------------------------------------------------------------


def moments() -> Iterator[float]:
    """From before TCP to after the login, which takes about 40 ms for each hop."""
    yield from (0.0, 0.001, 0.003, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15)


@pytest.mark.parametrize("way", ["direct", "through a jump host", "by a proxy command"])
async def test_a_dial_cancelled_at_any_moment_leaves_nothing(sshd: Sshd, way: str) -> None:
    to: Access = {
        "direct": access(hop(sshd)),
        "through a jump host": access(hop(sshd), hop(sshd)),
        "by a proxy command": access(hop(sshd), proxy_command=command(RELAY, "%h", "%p")),
    }[way]
    async with dialled(to):  # threads, caches
        pass
    before = fd_count()
    for delay in moments():
        # It may end by the cancelling alone: all that it waits for by itself takes longer than the test does.
        patient = settings(1000.0)
        attempt = asyncio.create_task(dial(to, patient, 1, name="test", client=asyncssh.SSHClient, environ={}))
        await asyncio.sleep(delay)
        attempt.cancel()
        try:
            result = await attempt
        except asyncio.CancelledError:
            continue
        else:
            result.connection.abort()
            await result.connection.wait_closed()
    await eventually(lambda: fd_count() <= before, message="no descriptor is left")
    await eventually(lambda: sshd.sessions() == 0, message="no session is left")


async def test_cancelled_while_the_jump_host_waits_for_the_next(sshd: Sshd) -> None:
    before = fd_count()
    with Blackhole() as hole:
        inside = fd_count()
        to = access(hop(sshd, hosts=(Endpoint(hole.host, hole.port),)), hop(sshd))
        attempt = asyncio.create_task(dial(to, settings(), 1, name="test", client=asyncssh.SSHClient, environ={}))
        await asyncio.sleep(0.3)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        await eventually(lambda: fd_count() <= inside)
        await eventually(lambda: sshd.sessions() == 0)
    await eventually(lambda: fd_count() <= before)


async def test_a_channel_that_opens_after_a_cancel_is_closed() -> None:
    """Cancelling asyncssh's open would leave it on both sides until the jump host's connection ends."""
    answer = asyncio.get_running_loop().create_future()
    aborted = []

    class Channel:
        def abort(self) -> None:
            aborted.append(self)

    class Below:
        logger = None

        def __init__(self) -> None:
            self._channels: dict[int, Channel] = {}

        async def create_connection(self, *_: object, **__: object) -> tuple[Channel, None]:
            await answer
            return Channel(), None

    opening = asyncio.create_task(JumpChannel(Below()).create_connection(asyncssh.SSHTCPSession, "x", 22))  # type: ignore[arg-type]  # as much of a connection as it needs
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    answer.set_result(None)
    await eventually(lambda: len(aborted) == 1)


async def test_a_hundred_targets_of_one_server_connect_at_once(tmp_path: Path) -> None:
    """By default, sshd drops unauthenticated connections from the tenth on."""
    strictly = {"MaxStartups": "10:100:10"}
    async with Sshd(tmp_path / "sshd", options=strictly) as sshd, contextlib.AsyncExitStack() as stack:
        await asyncio.gather(
            *(stack.enter_async_context(dialled(access(hop(sshd)), connect_timeout=60)) for _ in range(100))
        )
        assert sshd.sessions() == 100


async def test_a_server_that_is_still_busy_with_logins_gets_no_more_of_them(
    asyncssh_server: AsyncsshServer, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sshd reports a login before it lowers the count of MaxStartups, and then answers requests."""
    answers: list[Callable[[], None]] = []
    name = "_process_keepalive_at_openssh_dot_com_global_request"
    answer = getattr(asyncssh.connection.SSHConnection, name)
    monkeypatch.setattr(
        asyncssh.connection.SSHConnection,
        name,
        lambda connection, packet: answers.append(partial(answer, connection, packet)),
    )
    async with contextlib.AsyncExitStack() as stack:
        to = access(hop(asyncssh_server))
        first = [dialled(to, connect_timeout=WITHIN) for _ in range(HANDSHAKES_AT_ONCE)]
        await asyncio.gather(*map(stack.enter_async_context, first))
        last = asyncio.create_task(stack.enter_async_context(dialled(to, connect_timeout=WITHIN)))
        async with dialled(access(hop(sshd))):  # is not held up, and takes longer than a connect
            assert asyncssh_server.connections == len(first)
        await eventually(lambda: len(answers) == len(first))
        answers[0]()
        await last
        assert asyncssh_server.connections == len(first) + 1


# --- files ------------------------------------------------------------------------------------------------------


async def test_a_changed_file_is_seen_by_its_content(sshd: Sshd, keys: Keys) -> None:
    to = access(hop(sshd), hop(sshd, logins=(key_login(keys.make("jump").private),)))
    assert set(credential_files(to)) == {
        str(sshd.client_key),
        str(sshd.known_hosts),
        str(keys.directory / "jump"),
    }
    first = await fingerprint(to, {})
    content = sshd.known_hosts.read_bytes()
    sshd.known_hosts.write_bytes(content + b"# more\n")
    second = await fingerprint(to, {})
    sshd.known_hosts.unlink()
    third = await fingerprint(to, {})
    sshd.known_hosts.write_bytes(content)
    assert len({first, second, third}) == 3
    assert await fingerprint(to, {}) == first
