"""The SOCKS5 handshake: the bytes of RFC 1928 and 1929, what it refuses, and any bytes cut anywhere."""

from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.secret import Secret
from reconciler.core.socks5 import Connect, Event, Handshake, Login, Refused, Reply, Send, reply

GREETING = b"\x05\x01\x00"
GREETING_WITH_LOGIN = b"\x05\x02\x00\x02"
LOGIN = b"\x01\x05alice\x06secret"
WEB = b"\x05\x01\x00\x03\x0bexample.com\x01\xbb"


def request(host: bytes, port: int = 443, command: int = 1) -> bytes:
    """A request that names its host."""
    return bytes((5, command, 0, 3, len(host))) + host + port.to_bytes(2)


def answered(data: bytes, *, needs_auth: bool = False, cuts: tuple[int, ...] = (), ok: bool = True) -> list[Event]:
    """All events for these bytes, sent in pieces. Logins are answered at once; what follows Connect is its rest."""
    handshake = Handshake(needs_auth)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    events: list[Event] = []
    for begin, end in pairwise(edges):
        piece = data[begin:end]
        if events and isinstance(last := events[-1], Connect):
            events[-1] = Connect(last.host, last.port, last.rest + piece)
            continue
        events += handshake.feed(piece)
        if events and isinstance(events[-1], Login):
            events += handshake.accept_login(ok)
    return events


def refusal(data: bytes, *, needs_auth: bool = False) -> Refused:
    """The refusal with which these bytes end."""
    last = answered(data, needs_auth=needs_auth)[-1]
    assert isinstance(last, Refused)
    return last


def test_a_client_without_login_names_its_destination() -> None:
    assert answered(GREETING + WEB) == [Send(b"\x05\x00"), Connect("example.com", 443, b"")]


def test_a_client_logs_in_before_it_names_its_destination() -> None:
    assert answered(GREETING_WITH_LOGIN + LOGIN + WEB, needs_auth=True) == [
        Send(b"\x05\x02"),
        Login("alice", Secret("secret")),
        Send(b"\x01\x00"),
        Connect("example.com", 443, b""),
    ]


def test_nothing_is_read_as_a_request_before_the_login_is_answered() -> None:
    handshake = Handshake(needs_auth=True)
    handshake.feed(GREETING_WITH_LOGIN + LOGIN)
    assert handshake.feed(WEB) == []
    assert handshake.accept_login(ok=True) == [Send(b"\x01\x00"), Connect("example.com", 443, b"")]


def test_a_wrong_password_ends_the_handshake() -> None:
    events = answered(GREETING_WITH_LOGIN + LOGIN + WEB, needs_auth=True, ok=False)
    assert events[-1] == Refused(b"\x01\x01", "wrong user name or password", login=True)


def test_a_password_shows_in_no_representation() -> None:
    assert "secret" not in repr(answered(GREETING_WITH_LOGIN + LOGIN, needs_auth=True))


def test_a_login_may_have_letters_of_any_language() -> None:
    name, password = "зоя".encode(), "пароль".encode()
    login = bytes((1, len(name))) + name + bytes((len(password),)) + password
    assert Login("зоя", Secret("пароль")) in answered(GREETING_WITH_LOGIN + login, needs_auth=True)


def test_a_login_that_is_not_utf8_equals_no_password_of_a_file() -> None:
    events = answered(GREETING_WITH_LOGIN + b"\x01\x01u\x02\xff\xfe", needs_auth=True)
    assert isinstance(events[1], Login)
    assert events[1].password not in (Secret("ÿþ"), Secret("\ufffd\ufffd"), Secret(""))


@pytest.mark.parametrize("login", [b"\x01\x00\x06secret", b"\x01\x05alice\x00"])
def test_an_empty_name_or_password_is_refused_without_being_checked(login: bytes) -> None:
    assert answered(GREETING_WITH_LOGIN + login, needs_auth=True) == [
        Send(b"\x05\x02"),
        Refused(b"\x01\x01", "empty user name or password", login=True),
    ]


def test_a_login_of_another_version_is_refused() -> None:
    assert refusal(GREETING_WITH_LOGIN + b"\x05\x01a\x01b", needs_auth=True).data == b"\x01\x01"


def test_with_users_a_client_without_a_password_is_refused() -> None:
    refused = refusal(GREETING, needs_auth=True)
    assert refused.data == b"\x05\xff"
    assert refused.login
    assert "requires a login" in refused.why


def test_without_users_a_client_that_offers_both_methods_needs_no_login() -> None:
    assert answered(b"\x05\x03\x01\x00\x02") == [Send(b"\x05\x00")]


def test_without_users_a_client_that_requires_a_login_is_refused() -> None:
    refused = refusal(b"\x05\x01\x02")
    assert refused.data == b"\x05\xff"
    assert not refused.login


def test_a_client_that_offers_nothing_is_refused() -> None:
    assert refusal(b"\x05\x00").data == b"\x05\xff"


def test_bytes_after_the_request_belong_to_the_destination() -> None:
    assert answered(GREETING + WEB + b"\x16\x03\x01")[-1] == Connect("example.com", 443, b"\x16\x03\x01")


@pytest.mark.parametrize(
    ("kind", "address", "host"),
    [
        (1, IPv4Address("192.0.2.7").packed, "192.0.2.7"),
        (4, IPv6Address("2001:db8::7").packed, "2001:db8::7"),
        (4, IPv6Address("::ffff:192.0.2.7").packed, "192.0.2.7"),
        (3, b"\x09192.0.2.7", "192.0.2.7"),
        (3, b"\x0f2001:DB8:0:0::7", "2001:db8::7"),
        (3, b"\x0bExample.Com", "Example.Com"),
        (3, b"\x0cexample.com.", "example.com."),
        (3, b"\x0e_ldap._tcp.dc1", "_ldap._tcp.dc1"),
        (3, b"\x0axn--bcher-", "xn--bcher-"),
    ],
)
def test_a_destination_is_passed_on_as_an_address_or_unchanged_name(kind: int, address: bytes, host: str) -> None:
    assert answered(GREETING + bytes((5, 1, 0, kind)) + address + b"\x00\x50")[-1] == Connect(host, 80, b"")


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b".",
        b"a..b",
        b".example.com",
        b"a b",
        b"a\x00.example.com",
        b"a\n",
        b"a\r\nb",
        b"a\x7f",
        b"http://example.com",
        b"example.com:443",
        b"[::1]",
        b"fe80::1%eth0",
        b"a" * 64,
        b".".join([b"a" * 63] * 4),
        b"a" * 255,
        "bücher.example".encode(),
        b"\xff\xfe",
        b"127.1",
        b"0x7f.1",
        b"0x7f000001",
        b"2130706433",
        b"010.0.0.1",
        b"127.0.0.1.",
        b"1.2.3.4.5",
    ],
)
def test_an_invalid_name_is_refused(host: bytes) -> None:
    refused = refusal(GREETING + request(host))
    assert refused.data == reply(Reply.GENERAL_FAILURE)
    assert refused.why.isprintable()
    assert refused.why.isascii()


def test_the_longest_name_of_the_domain_name_system_is_accepted() -> None:
    name = b".".join([b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61])
    assert len(name) == 253
    assert answered(GREETING + request(name))[-1] == Connect(name.decode(), 443, b"")


def test_port_0_is_refused() -> None:
    assert "port is 0" in refusal(GREETING + request(b"example.com", port=0)).why


@pytest.mark.parametrize(("command", "name"), [(2, "BIND"), (3, "UDP ASSOCIATE"), (0, "command 0"), (9, "command 9")])
def test_only_connect_is_served(command: int, name: str) -> None:
    refused = refusal(GREETING + request(b"example.com", command=command))
    assert refused.data == reply(Reply.COMMAND_NOT_SUPPORTED)
    assert name in refused.why


@pytest.mark.parametrize("kind", [0, 2, 5, 255])
def test_an_unknown_kind_of_address_is_refused(kind: int) -> None:
    refused = refusal(GREETING + bytes((5, 1, 0, kind)) + bytes(6))
    assert refused.data == reply(Reply.ADDRESS_TYPE_NOT_SUPPORTED)


def test_a_request_of_another_version_is_refused() -> None:
    assert refusal(GREETING + b"\x04\x01").data == reply(Reply.GENERAL_FAILURE)


def test_a_socks4_client_gets_a_socks4_reply() -> None:
    refused = refusal(b"\x04\x01\x01\xbb\xc0\x00\x02\x07me\x00")
    assert refused.data == b"\x00\x5b\x00\x00\x00\x00\x00\x00"
    assert "SOCKS4" in refused.why


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n", b"CONNECT example.com:443 HTTP/1.1\r\n", b"PROPFIND / "])
def test_an_http_client_gets_an_http_response(start: bytes) -> None:
    refused = refusal(start)
    assert refused.data.startswith(b"HTTP/1.1 501 ")
    assert "HTTP" in refused.why


@pytest.mark.parametrize(
    ("start", "why"),
    [
        (b"\x16\x03\x01", "TLS"),
        (b"SSH-2.0-OpenSSH", "0x53"),
        (b"\x00", "0x00"),
        (b"ABCDEFGHIJ", "0x41"),
        (b"get / ", "0x67"),
    ],
)
def test_another_protocol_gets_no_answer_and_a_logged_reason(start: bytes, why: str) -> None:
    refused = refusal(start)
    assert refused.data == b""
    assert why in refused.why


def test_nothing_follows_a_refusal() -> None:
    handshake = Handshake(needs_auth=False)
    handshake.feed(b"\x04")
    assert handshake.feed(GREETING + WEB) == []


def test_the_final_reply_has_the_form_of_the_rfc() -> None:
    assert reply(Reply.SUCCEEDED) == b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"
    assert reply(Reply.CONNECTION_REFUSED)[1] == 5


def test_feeding_a_finished_handshake_raises() -> None:
    handshake = Handshake(needs_auth=False)
    handshake.feed(GREETING + WEB)
    with pytest.raises(RuntimeError, match="for the destination"):
        handshake.feed(b"hello")


def test_a_login_is_answered_only_once() -> None:
    handshake = Handshake(needs_auth=True)
    with pytest.raises(RuntimeError, match="no login"):
        handshake.accept_login(ok=True)


def test_a_client_that_floods_while_its_login_is_checked_is_refused() -> None:
    handshake = Handshake(needs_auth=True)
    handshake.feed(GREETING_WITH_LOGIN + LOGIN)
    assert handshake.feed(bytes(65536)) == []
    assert isinstance(handshake.feed(b"\x00")[0], Refused)
    assert handshake.accept_login(ok=True) == []


# --- any bytes, cut anywhere -----------------------------------------------------------------------------------

cuts = st.lists(st.integers(0, 2000), max_size=12).map(tuple)
hosts = st.sampled_from([b"example.com", b"", b"127.1", b"10.0.0.1", b"a" * 63, b"\xff", b"a b"])
requests = st.builds(request, hosts, st.integers(0, 65535), st.sampled_from([1, 1, 1, 2, 3, 77]))
greetings = st.sampled_from(
    [GREETING, GREETING_WITH_LOGIN, b"\x05\x00", b"\x05\x01\x02", b"\x04\x01", b"GET ", b"CONNECT", b"\x16", b""]
)
logins = st.sampled_from([b"", LOGIN, b"\x01\x00\x00", b"\x01\xff" + b"u" * 255 + b"\xff" + b"p" * 255, b"\x05"])
conversations = st.builds(lambda *parts: b"".join(parts), greetings, logins, requests | st.binary(), st.binary())


@given(conversations | st.binary(), st.booleans(), cuts, st.booleans())
def test_events_do_not_depend_on_how_the_bytes_are_split(
    data: bytes, needs_auth: bool, cuts: tuple[int, ...], ok: bool
) -> None:
    assert answered(data, needs_auth=needs_auth, cuts=cuts, ok=ok) == answered(data, needs_auth=needs_auth, ok=ok)


@given(conversations, st.booleans())
def test_one_byte_at_a_time_gives_the_same_events(data: bytes, needs_auth: bool) -> None:
    each = tuple(range(1, len(data)))
    assert answered(data, needs_auth=needs_auth, cuts=each) == answered(data, needs_auth=needs_auth)


@given(st.lists(st.binary(max_size=700)), conversations, st.booleans())
def test_no_input_raises_or_exceeds_the_buffer(pieces: list[bytes], begin: bytes, needs_auth: bool) -> None:
    handshake = Handshake(needs_auth)
    for piece in (begin, *pieces):
        events = handshake.feed(piece)
        if events and isinstance(events[-1], Login):
            events = handshake.accept_login(ok=True)
        assert len(handshake._buffer) <= 513
        if events and isinstance(events[-1], Connect | Refused):
            break


@given(conversations, st.booleans())
def test_with_users_no_client_connects_without_a_login(data: bytes, ok: bool) -> None:
    events = answered(data, needs_auth=True, ok=ok)
    if any(isinstance(event, Connect) for event in events):
        assert ok
        assert any(isinstance(event, Login) for event in events)


@given(st.binary(min_size=1, max_size=255), st.integers(1, 65535))
def test_a_destination_that_is_passed_on_is_printable_ascii(host: bytes, port: int) -> None:
    last = answered(GREETING + request(host, port))[-1]
    if isinstance(last, Connect):
        assert last.host.isascii()
        assert last.host.isprintable()
        assert last.port == port


@given(st.binary(max_size=40), st.booleans(), st.booleans(), st.integers(1, 600))
def test_the_bytes_after_the_request_are_the_rest(after: bytes, needs_auth: bool, by_name: bool, piece: int) -> None:
    said = (GREETING_WITH_LOGIN + LOGIN if needs_auth else GREETING) + (
        WEB if by_name else b"\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x50"
    )
    sent, read, events = said + after, 0, list[Event]()
    handshake = Handshake(needs_auth)
    while not (events and isinstance(events[-1], Connect)):
        events += handshake.feed(sent[read : read + piece])
        read += piece
        if events and isinstance(events[-1], Login):
            events += handshake.accept_login(ok=True)
    assert isinstance(connect := events[-1], Connect)
    assert connect.rest == sent[len(said) : read]
