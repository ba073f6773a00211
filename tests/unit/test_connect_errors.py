"""Exceptions become failures; text from a server is escaped in them."""

from __future__ import annotations

import errno
import os
import socket

import asyncssh
import pytest

from reconciler.core.observed import Failure, Reason
from reconciler.core.spec import RemoteTcp
from reconciler.ssh.errors.channel_errors import from_channel_open, socks_reply
from reconciler.ssh.errors.connect_errors import from_dial, from_lost
from reconciler.ssh.errors.failure import Stage, most_significant
from reconciler.ssh.errors.forwarding import UNKNOWN_SERVER
from reconciler.ssh.errors.listen_errors import from_local_listen, from_remote_listen
from reconciler.ssh.errors.patterns import printable
from reconciler.system.port_owner import owner_of_port

ON_SERVER = RemoteTcp("prod", "127.0.0.1", 80)

DIALS = [
    (ConnectionRefusedError(errno.ECONNREFUSED, "x"), Stage.CONNECT, Reason.REFUSED),
    (OSError("Multiple exceptions: [Errno 101] Network is unreachable, [Errno 111] x"), Stage.CONNECT, Reason.REFUSED),
    (OSError(errno.EHOSTUNREACH, "x"), Stage.CONNECT, Reason.UNREACHABLE),
    (PermissionError(errno.EPERM, "x"), Stage.CONNECT, Reason.UNREACHABLE),
    (TimeoutError(), Stage.CONNECT, Reason.TIMEOUT),
    (TimeoutError(), Stage.LOGIN, Reason.TIMEOUT),
    (OSError(errno.ETIMEDOUT, "x"), Stage.CONNECT, Reason.TIMEOUT),
    (socket.gaierror(socket.EAI_NONAME, "x"), Stage.CONNECT, Reason.DNS),
    (OSError(errno.EMFILE, "x"), Stage.CONNECT, Reason.RESOURCES),
    (ConnectionResetError(), Stage.BANNER, Reason.SERVER_BUSY),
    (asyncssh.ConnectionLost("Connection lost"), Stage.BANNER, Reason.SERVER_BUSY),
    (asyncssh.ConnectionLost("Connection lost"), Stage.KEX, Reason.CLOSED_BY_SERVER),
    (asyncssh.ConnectionLost("Connection lost"), Stage.LOGIN, Reason.SERVER_BUSY),
    (asyncssh.PermissionDenied("x"), Stage.LOGIN, Reason.AUTH),
    (asyncssh.ProtocolError("Too many authentication failures"), Stage.LOGIN, Reason.AUTH),
    (asyncssh.ProtocolError("Bad packet"), Stage.KEX, Reason.PROTOCOL),
    (asyncssh.KeyExchangeFailed("x"), Stage.KEX, Reason.PROTOCOL),
    (asyncssh.DisconnectError(asyncssh.DISC_TOO_MANY_CONNECTIONS, "x"), Stage.LOGIN, Reason.SERVER_BUSY),
    (asyncssh.HostKeyNotVerifiable("x"), Stage.KEX, Reason.HOST_KEY),
    (RuntimeError("x"), Stage.CONNECT, Reason.INTERNAL),
    (asyncssh.ChannelOpenError(2, "Connection refused"), Stage.CONNECT, Reason.REFUSED),
    (asyncssh.ChannelOpenError(2, "Name or service not known"), Stage.CONNECT, Reason.DNS),
    (asyncssh.ChannelOpenError(2, "Connection timed out"), Stage.CONNECT, Reason.TIMEOUT),
    (asyncssh.ChannelOpenError(2, "No route to host"), Stage.CONNECT, Reason.UNREACHABLE),
    (asyncssh.ChannelOpenError(2, "SSH connection closed"), Stage.CONNECT, Reason.CLOSED_BY_SERVER),
    (asyncssh.ChannelOpenError(1, "open failed"), Stage.CONNECT, Reason.FORBIDDEN_BY_SERVER),
]


def test_an_offer_of_any_length_is_parsed_in_linear_time() -> None:
    """A backtracking pattern would take hours, before the server is authenticated."""
    offer = "No matching key exchange algorithm found, sent a,b and received " + " algorithm found, sent " * 100_000
    failure = from_dial(asyncssh.KeyExchangeFailed(offer), "h:22", Stage.KEX)
    assert failure.reason is Reason.PROTOCOL
    assert len(failure.message) < 1000


@pytest.mark.parametrize(("exc", "stage", "reason"), DIALS, ids=str)
def test_a_failed_dial(exc: Exception, stage: Stage, reason: Reason) -> None:
    failure = from_dial(exc, "a.example:22", stage, 15.0)
    assert failure.reason is reason
    assert reason is Reason.RESOURCES or "a.example:22" in failure.message


@pytest.mark.parametrize(
    ("exc", "reason"),
    [
        (None, Reason.CLOSED_BY_SERVER),
        (asyncssh.ConnectionLost("Server not responding to keepalive"), Reason.KEEPALIVE),
        (asyncssh.ConnectionLost("Connection lost"), Reason.CLOSED_BY_SERVER),
        (ConnectionResetError(), Reason.CLOSED_BY_SERVER),
        (TimeoutError(errno.ETIMEDOUT, "x"), Reason.KEEPALIVE),
        (OSError(errno.ENETUNREACH, "x"), Reason.UNREACHABLE),
        (asyncssh.MACError("x"), Reason.PROTOCOL),
        (asyncssh.DisconnectError(11, "idle"), Reason.CLOSED_BY_SERVER),
        (ValueError("x"), Reason.INTERNAL),
    ],
    ids=str,
)
def test_a_lost_link(exc: Exception | None, reason: Reason) -> None:
    assert from_lost(exc, "a.example:22").reason is reason


@pytest.mark.parametrize(
    ("exc", "reason", "reply"),
    [
        (asyncssh.ChannelOpenError(1, "open failed"), Reason.FORBIDDEN_BY_SERVER, 2),
        (asyncssh.ChannelOpenError(2, "Connection refused"), Reason.DESTINATION, 5),
        (asyncssh.ChannelOpenError(2, "No route to host"), Reason.DESTINATION, 4),
        (asyncssh.ChannelOpenError(2, "Network is unreachable"), Reason.DESTINATION, 3),
        (
            asyncssh.ChannelOpenError(2, "Error resolving 'x' port '80'. Name or service not known"),
            Reason.DESTINATION,
            4,
        ),
        (asyncssh.ChannelOpenError(2, "Connection timed out"), Reason.DESTINATION, 4),
        (asyncssh.ChannelOpenError(2, "who knows"), Reason.DESTINATION, 1),
        (asyncssh.ChannelOpenError(2, "SSH connection closed"), Reason.CLOSED_BY_SERVER, 1),
        (asyncssh.ChannelOpenError(3, ""), Reason.FORBIDDEN_BY_SERVER, 1),
        (asyncssh.ChannelOpenError(4, "x"), Reason.RESOURCES, 1),
        (TimeoutError(), Reason.DESTINATION, 4),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), Reason.DESTINATION, 1),
        (OSError(errno.EMFILE, "x"), Reason.RESOURCES, 1),
    ],
    ids=str,
)
def test_a_channel_that_was_not_opened(exc: Exception, reason: Reason, reply: int) -> None:
    assert from_channel_open(exc, "db:5432").reason is reason
    assert socks_reply(exc) == reply


def test_a_local_port_in_use_names_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        host, port = taken.getsockname()
        with pytest.raises(OSError, match="in use") as raised:
            socket.create_server((host, port))
        failure = from_local_listen(raised.value, f"{host}:{port}")
    assert failure.reason is Reason.LOCAL_PORT_IN_USE
    assert "this process itself" in failure.message


def test_a_port_of_an_outgoing_connection_names_no_program() -> None:
    """Not one that listens on the same port of another address either."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.connect(server.getsockname())
        port = client.getsockname()[1]
        with socket.create_server(("127.0.0.2", port)):
            with pytest.raises(OSError, match="in use") as raised:
                socket.create_server(("127.0.0.1", port))
            failure = from_local_listen(raised.value, f"127.0.0.1:{port}")
    assert failure.reason is Reason.LOCAL_PORT_IN_USE
    assert "is in use by an earlier or outgoing connection; no program listens on it: wait" in failure.message
    assert "stop it" not in failure.message


@pytest.mark.parametrize(
    ("listening", "asked", "is_named"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "*", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "[::]", False),
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "127.0.0.1", True),
        ("::1", "[::1]", True),
        ("::1", "[::]", True),
        ("::1", "127.0.0.1", False),
    ],
)
def test_the_holder_of_a_port_listens_on_that_address(listening: str, asked: str, is_named: bool) -> None:
    family = socket.AF_INET6 if ":" in listening else socket.AF_INET
    try:
        server = socket.create_server((listening, 0), family=family)
    except OSError:
        pytest.skip(f"there is no {listening} here")
    with server:
        found = owner_of_port(f"{asked}:{server.getsockname()[1]}")
    assert found == ("this process itself" if is_named else None)


def test_a_failure_without_a_fix_has_the_default_of_its_reason() -> None:
    for reason in Reason:
        failure = Failure(reason, "it broke")
        assert failure.advice
        assert failure.message == f"it broke: {failure.advice}"


def test_the_fix_of_a_failure_replaces_the_default() -> None:
    failure = Failure(Reason.AUTH, "it broke", "repair it")
    assert (failure.message, failure.advice, failure.needs_action) == ("it broke: repair it", "repair it", True)


@pytest.mark.parametrize(
    ("exc", "local", "said", "reason"),
    [
        (PermissionError(errno.EACCES, "x"), True, "", Reason.BIND),
        (OSError(errno.EADDRNOTAVAIL, "x"), True, "", Reason.BIND),
        (socket.gaierror(-2, "x"), True, "", Reason.BIND),
        (OSError(errno.EMFILE, "x"), True, "", Reason.RESOURCES),
        (asyncssh.ChannelListenError("x"), False, "", Reason.REMOTE_PORT_IN_USE),
        (asyncssh.ChannelListenError("x"), False, "Server has disabled port forwarding.", Reason.FORBIDDEN_BY_SERVER),
        (asyncssh.ChannelListenError("x"), False, "port forwarding refused", Reason.FORBIDDEN_BY_SERVER),
        (TimeoutError(), False, "", Reason.TIMEOUT),
        (asyncssh.ConnectionLost("x"), False, "", Reason.CLOSED_BY_SERVER),
    ],
    ids=str,
)
def test_a_listener_that_was_not_opened(exc: Exception, local: bool, said: str, reason: Reason) -> None:
    if local:
        assert from_local_listen(exc, "127.0.0.1:80").reason is reason
    else:
        assert from_remote_listen(exc, ON_SERVER, UNKNOWN_SERVER, said=said).reason is reason


def test_text_of_a_server_is_escaped_and_cut() -> None:
    assert printable("a\x1b[2J\nb\u202e") == "a\\x1b[2J\\nb\\u202e"
    assert len(printable("x" * 10_000)) == 120
    for failure in (
        from_dial(asyncssh.DisconnectError(2, "\x1b[2J\n" * 99), "x", Stage.LOGIN),
        from_lost(asyncssh.DisconnectError(2, "\x1b[2J\n" * 99)),
        from_channel_open(asyncssh.ChannelOpenError(2, "\x1b[2J\n" * 99), "x:1"),
    ):
        assert failure.message.isprintable()
        assert len(failure.message) < 250


def test_the_first_failure_that_got_furthest_is_the_most_significant() -> None:
    def failure(reason: Reason, message: str = "") -> Failure:
        return Failure(reason, message)

    refused, other = failure(Reason.REFUSED, "one"), failure(Reason.REFUSED, "two")
    assert most_significant([failure(Reason.DNS), refused, other]) is refused
    assert most_significant([failure(Reason.AUTH), refused]).reason is Reason.AUTH
    assert most_significant([failure(Reason.AUTH), failure(Reason.HOST_KEY)]).reason is Reason.HOST_KEY


def test_every_system_error_has_a_message() -> None:
    for number in errno.errorcode:
        error = OSError(number, os.strerror(number))
        for failure in (
            from_dial(error, "x"),
            from_lost(error, "x"),
            from_channel_open(error, "x"),
            from_local_listen(error, "127.0.0.1:1"),
            from_remote_listen(error, ON_SERVER, UNKNOWN_SERVER),
        ):
            assert failure.message


@pytest.mark.parametrize(
    ("number", "what", "fix"),
    [
        (errno.ENOENT, "there is no socket /run/db on this machine", "start the service there, or correct the path"),
        (errno.ECONNREFUSED, "/run/db refuses connections", "start the service there, or correct the address"),
        (
            errno.EACCES,
            "cannot connect to /run/db (Permission denied)",
            "check that it is a socket, and that this process may write to it and enter its directory",
        ),
    ],
)
def test_a_unix_socket_of_this_machine_that_cannot_be_reached(number: int, what: str, fix: str) -> None:
    failure = from_channel_open(OSError(number, os.strerror(number)), "/run/db")
    assert (failure.what, failure.advice) == (what, fix)
