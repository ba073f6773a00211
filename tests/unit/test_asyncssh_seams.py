"""The installed asyncssh has each name that reconciler/ssh/internals uses, and the name means what this program needs.

Real connections over a socket pair. A failure here after an update of asyncssh names the seam that changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncssh
import pytest
from asyncssh import compression, kex, public_key
from asyncssh import connection as asyncssh_connection
from asyncssh.constants import MSG_GLOBAL_REQUEST, MSG_IGNORE

from reconciler.core.observed import Reason
from reconciler.ssh.connect import asyncssh_options
from reconciler.ssh.errors.failure import DialFailed
from reconciler.ssh.internals import (
    asyncssh_state,
    carrier,
    codec_aead,
    compatibility,
    connection_number,
    decompression,
    global_requests,
    group_exchange,
    ignore_packets,
    kex_messages,
    packet_guard,
    packets,
    seam,
)
from reconciler.ssh.internals.greeting import Greeting
from reconciler.ssh.internals.keys import algorithm_names, certificates, public_keys, signatures
from reconciler.ssh.internals.parse_budget import ParseBudget
from reconciler.ssh.internals.seam import Seam
from support.wait import eventually

ROOT = Path(__file__).parents[2]
INTERNALS = ROOT / "reconciler/ssh/internals"
HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")

MODULES = [
    importlib.import_module(f"reconciler.ssh.internals.{'.'.join(path.relative_to(INTERNALS).with_suffix('').parts)}")
    for path in sorted(INTERNALS.rglob("*.py"))
    if re.search(r"^SEAMS = ", path.read_text(), re.MULTILINE)
]
# Modules that the program can do without: each checks its own seams, and falls back if one is missing.
OPTIONAL: set[ModuleType] = {asyncssh_state, codec_aead}
ALL = [(module, one) for module in MODULES for one in module.SEAMS]
SEAMS = [pytest.param(one, id=f"{module.__name__.rpartition('.')[2]}: {one}") for module, one in ALL]


class Server(asyncssh.SSHServer):
    """A server that needs no login, accepts channels, and records the packets of the connection."""

    def __init__(self) -> None:
        self.connection: Any = None
        self.received: list[int] = []

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.connection = conn
        log = self.connection.log_received_packet

        def record(pkttype: int, *rest: Any) -> None:
            self.received.append(pkttype)
            log(pkttype, *rest)

        self.connection.log_received_packet = record

    def begin_auth(self, username: str) -> bool:
        return False

    def connection_requested(self, *_: object) -> asyncssh.SSHTCPSession[bytes]:
        return asyncssh.SSHTCPSession()


OPTIONS: dict[str, Any] = {
    "config": None,
    "username": "tester",
    "known_hosts": None,
    "client_keys": None,
    "agent_path": None,
    "gss_host": None,
}


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def connection(server: Server) -> AsyncIterator[Any]:
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    serving, client = await asyncio.gather(
        asyncssh.run_server(theirs, server_factory=lambda: server, server_host_keys=[HOST_KEY]),
        asyncssh.connect("server", 22, sock=ours, **OPTIONS),
    )
    yield client
    for end in (client, serving):
        end.abort()
        await end.wait_closed()


async def open_channel(connection: Any) -> Any:
    chan, _ = await connection.create_connection(asyncssh.SSHTCPSession, "host", 1)
    return chan


# --- the names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", SEAMS)
def test_asyncssh_has_the_name(one: Seam) -> None:
    assert one.problem() == ""


async def test_a_live_connection_and_channel_have_the_names(connection: Any) -> None:
    chan = await open_channel(connection)
    live = {asyncssh.SSHClientConnection: connection, asyncssh.SSHTCPChannel: chan}
    lacking = [str(one) for _, one in ALL if one.owner in live and not hasattr(live[one.owner], one.name)]
    assert lacking == []


def test_a_renamed_name_is_a_problem() -> None:
    assert Seam(asyncssh.SSHClientConnection, "_gone").problem() == "has no SSHClientConnection._gone"
    assert Seam(compression, "gone", "").problem() == "has no compression.gone"
    # A value that `__init__` sets does not stand in for a method.
    assert Seam(asyncssh.SSHClientConnection, "_inpbuf", "self").problem() == "has no SSHClientConnection._inpbuf"


def test_another_parameter_is_a_problem() -> None:
    changed = Seam(asyncssh.SSHClientConnection, "set_tunnel", "self tunnel options")
    assert changed.problem() == "has SSHClientConnection.set_tunnel(self tunnel), expected (self tunnel options)"


def test_a_dial_fails_with_the_name_of_a_missing_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "SEAMS", (Seam(packets.SSHPacket, "gone"),))
    compatibility.incompatibility.cache_clear()
    try:
        with pytest.raises(DialFailed) as failed:
            asyncssh_options.options(None, (), None, (0.0, 1), certificates=False)  # type: ignore[arg-type]  # not used
    finally:
        compatibility.incompatibility.cache_clear()
    failure = failed.value.failure
    assert failure.reason is Reason.INTERNAL
    assert failure.what == f"asyncssh {asyncssh.__version__} has no SSHPacket.gone (packets), tested with {seam.TESTED}"
    assert f"install asyncssh {seam.TESTED}" in failure.fix


def test_the_tested_version_is_the_pinned_one() -> None:
    pinned = re.search(r"^asyncssh==(\S+)", (ROOT / "requirements/run.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert pinned[1] == seam.TESTED


def test_each_module_that_uses_private_names_lists_its_seams() -> None:
    private = re.compile(r"noqa: SLF001|^from asyncssh|method-assign", re.MULTILINE)
    users = {path for path in INTERNALS.rglob("*.py") if private.search(path.read_text())}
    assert users <= {Path(str(module.__file__)) for module in MODULES}


def test_the_start_check_covers_each_module_with_seams() -> None:
    assert set(compatibility.MODULES) | OPTIONAL == set(MODULES)


def test_the_documentation_lists_the_seams() -> None:
    text = (ROOT / "docs/asyncssh.md").read_text()
    rows = re.findall(r"^\| `ssh/internals/([\w/]+\.py)` \| ([^|]*) \|", text, re.MULTILINE)
    listed = {name: set(re.findall(r"`([\w.]+)`", names)) for name, names in rows}
    assert listed == {_file(module): {str(one) for one in module.SEAMS} for module in MODULES}


def _file(module: ModuleType) -> str:
    return Path(str(module.__file__)).relative_to(INTERNALS).as_posix()


# --- what they mean: connections --------------------------------------------------------------------------------


def ask(connection: Any) -> asyncio.Task[Any]:
    """Send a request that each server answers."""
    return asyncio.ensure_future(connection._make_global_request(b"keepalive@openssh.com"))


async def test_a_request_waits_for_its_answer(connection: Any, server: Server) -> None:
    guard = packet_guard.Guard(connection, ParseBudget(connection))
    reply = await guard.requests.ping()
    assert MSG_GLOBAL_REQUEST in server.received
    assert reply.outcome is global_requests.Outcome.ACCEPTED


async def test_the_requests_of_asyncssh_get_their_answers(connection: Any) -> None:
    guard = packet_guard.Guard(connection, ParseBudget(connection))
    connection._keepalive_count = 2
    await connection._make_keepalive_request()
    assert (connection._keepalive_count, guard.requests.answered) == (0, 1)


async def test_a_request_ends_with_the_connection(connection: Any, server: Server) -> None:
    guard = packet_guard.Guard(connection, ParseBudget(connection))
    server.connection.process_packet = lambda *_: True  # it answers nothing
    asked = guard.requests.ping()
    await eventually(lambda: MSG_GLOBAL_REQUEST in server.received)
    assert not asked.done()
    guard.close()
    assert (await asked).outcome is global_requests.Outcome.LOST
    assert (await guard.requests.ping()).outcome is global_requests.Outcome.LOST


async def test_a_request_knows_the_sequence_number_of_its_packet(connection: Any, server: Server) -> None:
    guard = packet_guard.Guard(connection, ParseBudget(connection))
    numbers: list[int] = []
    process = server.connection.process_packet

    def refuse(kind: int, number: int, packet: Any) -> Any:
        if kind == MSG_GLOBAL_REQUEST:
            numbers.append(number)
            return True
        return process(kind, number, packet)

    server.connection.process_packet = refuse
    guard.requests.ping(), guard.requests.ping()
    sent = [one.number for one in guard.requests._waiting]
    await eventually(lambda: len(numbers) == 2)
    assert sent == numbers


async def test_no_ignore_packets_are_sent(connection: Any, server: Server) -> None:
    await ask(connection)
    assert MSG_IGNORE in server.received
    server.received.clear()
    ignore_packets.omit(connection)
    await ask(connection)
    assert MSG_IGNORE not in server.received


async def test_a_greeting_is_recorded_until_the_version_arrives() -> None:
    seen: list[bytes] = []

    class Client(asyncssh.SSHClient):
        def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
            before = conn.data_received
            greeting = Greeting(conn)
            assert kex_messages.server_version(conn) == ""
            conn.data_received(b"too many connections\r\nSSH-2.")
            seen.append(greeting.received)
            conn.data_received(b"0-test\r\n")
            seen.append(greeting.received)
            assert kex_messages.server_version(conn) == "SSH-2.0-test"
            assert kex_messages.offers(conn) is None
            assert conn.data_received == before
            conn.abort()

    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        await asyncssh.connect("server", 22, sock=ours, client_factory=Client, **OPTIONS)
    assert seen == [b"too many connections\r\nSSH-2.", b""]


async def test_the_offers_of_both_sides_are_kept(connection: Any) -> None:
    offered = kex_messages.offers(connection)
    assert offered is not None
    ours, theirs = offered
    assert len(ours) == len(theirs) == 8
    assert "curve25519-sha256" in ours[0]
    assert "kex-strict-s-v00@openssh.com" in theirs[0]
    assert "ssh-ed25519" in theirs[1]
    assert connection.get_extra_info("send_cipher") in ours[2]


async def test_asyncssh_opens_the_channel_of_a_carrier_and_closes_it_with_the_connection(connection: Any) -> None:
    opened = []

    class Carrier(carrier.JumpChannel):
        async def create_connection(self, *arguments: Any) -> Any:
            opened.append(arguments[1:])
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "refused")

    with pytest.raises(asyncssh.ChannelOpenError):
        await asyncssh.connect("inner", 22, tunnel=Carrier(connection), **OPTIONS)
    assert opened == [("inner", 22)]

    closed = asyncio.Event()

    class Command:
        def close(self) -> None:
            closed.set()

        async def wait_closed(self) -> None:
            await closed.wait()

    carrier.close_with(connection, Command())
    connection.abort()
    await connection.wait_closed()
    assert closed.is_set()


async def test_log_messages_start_with_the_number_of_the_connection(
    connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "asyncssh")
    connection.send_debug("hello")
    await open_channel(connection)
    number = connection_number.of(connection)
    assert re.fullmatch(r"conn=\d+", number)
    assert number in {connection_number.in_message(str(record.msg)) for record in caplog.records}
    assert connection_number.in_message(f"[{number}, chan=0] text") == number
    assert connection_number.in_message("text") == ""


async def test_parsing_stops_before_a_packet_and_goes_on(connection: Any) -> None:
    budget = ParseBudget(connection)
    await ask(connection)
    budget.hold()
    asked = ask(connection)
    connection.data_received(b"")
    assert not asked.done()
    budget.release()
    await asked


async def test_the_guard_limits_packets_before_the_login(connection: Any, server: Server) -> None:
    packet_guard.Guard(connection, ParseBudget(connection))
    server.connection.send_debug("x" * packet_guard.LOGIN_PACKET_MAX)
    with contextlib.suppress(asyncssh.Error):
        await connection.wait_closed()
    assert connection.is_closed()


# --- what they mean: packets, algorithms and keys ---------------------------------------------------------------


def test_the_fields_of_a_packet_are_read_from_a_copy() -> None:
    packet = packets.SSHPacket(b"\x50" + b"\0\0\0\2hi" + b"\1" + b"\0\0\0\7")
    packet.get_byte()
    fields = packets.payload(packet)
    assert (fields.get_string(), fields.get_boolean(), fields.get_uint32()) == (b"hi", True, 7)
    fields.check_end()
    with pytest.raises(packets.PacketDecodeError):
        fields.get_uint32()
    assert packet.get_remaining_payload() == b"\0\0\0\2hi" + b"\1" + b"\0\0\0\7"


def test_compression_uses_the_limited_decompressor() -> None:
    decompression.install()
    for name in (b"zlib@openssh.com", b"zlib"):
        assert isinstance(compression.get_decompressor(name), decompression.Decompressor)
    names = compression.get_compression_algs()
    assert len(names) == len(set(names))
    assert compression.get_compression_params(b"zlib@openssh.com") is True  # after the login


async def test_group_exchange_uses_the_limited_groups(connection: Any) -> None:
    group_exchange.install()
    assert type(kex.get_kex(connection, b"diffie-hellman-group-exchange-sha256")) is group_exchange.GroupExchange


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("cipher", "aes128-gcm@openssh.com"),
        ("kex", "curve25519-sha256"),
        ("mac", "hmac-sha2-256"),
        ("hostKey", "ssh-ed25519-cert-v01@openssh.com"),
        ("hostKey", "rsa-sha2-512"),
        ("compression", "zlib@openssh.com"),
    ],
)
def test_supported_algorithms_are_listed(kind: str, name: str) -> None:
    assert name in algorithm_names.supported(kind)


def test_a_certificate_shows_its_key_and_validity() -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    for_user = key.generate_user_certificate(key, "id", valid_after=10, valid_before=20)
    found = certificates.parsed(certificates.encoded(for_user))
    assert (found.for_users, found.after, found.before, found.key) == (True, 10, 20, public_keys.encoded(key))
    for_host = certificates.parsed(certificates.encoded(key.generate_host_certificate(key, "id")))
    assert (for_host.for_users, for_host.after, for_host.before) == (False, 0, None)
    assert public_keys.encoded(certificates.certified_key(for_user)) == public_keys.encoded(key)
    certified, plain = asyncssh.load_keypairs([(key, for_user)])
    assert certificates.of_pair(certified) == found
    assert certificates.of_pair(plain) is None
    assert public_keys.encoded(plain) == public_keys.encoded(key)


@pytest.mark.parametrize("kind", ["ssh-rsa", "ecdsa-sha2-nistp521", "ssh-ed25519"])
def test_a_certificate_of_each_kind_is_parsed(kind: str) -> None:
    key = asyncssh.generate_private_key(kind)
    made = key.generate_user_certificate(
        key, "id", principals=["a", "b"], force_command="x", source_address=["10.0.0.0/8"], permit_port_forwarding=False
    )
    found = certificates.parsed(made.public_data)
    assert found.key == public_keys.encoded(key)
    assert (found.principals, found.before) == (("a", "b"), None)
    assert found.critical == (("force-command", "x"), ("source-address", "10.0.0.0/8"))
    assert "permit-pty" in found.extensions
    assert "permit-port-forwarding" not in found.extensions


def test_a_key_signs_as_chosen_and_reports_a_failure_to_sign() -> None:
    key = asyncssh.generate_private_key("ssh-rsa", key_size=1024)
    (pair,) = asyncssh.load_keypairs([key])
    signer, failures = signatures.Signer(pair), list[str]()
    assert set(signer.names) == set(public_keys.signature_names(key))
    for name in ("rsa-sha2-256", "rsa-sha2-512", "ssh-rsa"):
        signer.choose(name, failures.append)
        assert (pair.algorithm.decode(), name.encode() in pair.sign(b"data")) == (name, True)
    pair.sig_algorithm = b"unknown"
    with pytest.raises(ValueError, match="Unrecognized"):
        pair.sign(b"data")
    assert len(failures) == 1


# --- texts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (asyncssh_connection, "SSH connection closed"),  # ssh/errors/patterns.py
        (asyncssh_connection, "not responding to keepalive"),  # ssh/errors/connect_errors.py
        (asyncssh_connection, "No matching {alg_type} algorithm found, sent "),
        (asyncssh_connection, "Host CA key is revoked"),  # ssh/connect/host_key_check.py
        (public_key, "Certificate not yet valid"),
        (public_key, "Certificate expired"),
        (public_key, "Certificate principal mismatch"),
        (public_key, "Passphrase must be specified to import encrypted private keys"),  # ssh/connect/credentials.py
    ],
)
def test_asyncssh_has_the_texts_that_errors_are_recognized_by(module: ModuleType, text: str) -> None:
    source = re.sub(r"'\s+f?'", "", inspect.getsource(module))  # texts that are split over lines
    assert text in source
