"""Origins of clients: which texts are addresses. An unknown origin passes no source rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.rules.access import SourceRules
from reconciler.core.rules.origin import UNIX, TcpOrigin, UnknownOrigin, tcp_origin
from unit.build import origin


def sources(*allow: str, deny: tuple[str, ...] = ()) -> SourceRules:
    return SourceRules.parse(allow, deny)


@pytest.mark.parametrize(
    "said",
    [
        *("", "unknown", "UNKNOWN", "localhost", "10.0.0.1.example.com", "/run/app.sock"),
        *("10.0.0", "010.0.0.1", "0x0a000001", "167772161", "10.0.0.1.", " 10.0.0.1", "10.0.0.1 ", "10.0.0.1\n"),
        *("10.0.0.1\0", "\0", "10.0.0.1:80", "[::1]", "::1]", "10.0.0.1/32", "10.0.0.1%lo", "\uff11\uff10.0.0.1"),
        *("2001:db8::1%eth0", "fe80::1%", "fe80::1%a%b", "fe80::1%" + "a" * 16, "fe80::1% ", "::ffff:10.0.0.1%eth0"),
        *("1" * 100_000, "fe80::1%" + "a" * 100_000, "\x1b[2J", "\u202e10.0.0.1"),
    ],
)
def test_an_unknown_origin_is_refused_if_there_are_rules(said: str) -> None:
    unknown = origin(said)
    assert isinstance(unknown, UnknownOrigin)
    assert not sources("0.0.0.0/0", "::/0").permits(unknown)
    assert not sources(deny=("192.0.2.1",)).permits(unknown)
    assert sources().permits(unknown)
    assert unknown.host
    assert unknown.host.isascii()
    assert unknown.host.isprintable()
    assert len(unknown.host) <= 64


@pytest.mark.parametrize("port", [-1, 65_536, 2**32, None, "80"])
def test_an_origin_with_an_invalid_port_is_unknown(port: object) -> None:
    assert isinstance(tcp_origin("10.0.0.1", port), UnknownOrigin)
    assert isinstance(tcp_origin(None, 80), UnknownOrigin)


def test_an_origin_is_shown_with_its_port_and_its_interface() -> None:
    assert str(origin("10.0.0.1", 80)) == "10.0.0.1:80"
    assert str(origin("::1", 80)) == "[::1]:80"
    assert str(origin("fe80::1%eth0", 80)) == "[fe80::1%eth0]:80"
    assert (str(UNIX), str(UnknownOrigin())) == ("", "unknown")


@given(st.text(max_size=30), st.integers(-1, 70_000))
def test_no_text_is_read_as_another_address(said: str, port: int) -> None:
    found = origin(said, port)
    if isinstance(found, TcpOrigin):
        assert origin(found.host, port) == found
    else:
        assert not sources(deny=("192.0.2.1",)).permits(found)


def test_the_interface_of_a_link_local_client_does_not_matter() -> None:
    assert sources("fe80::/10").permits(origin("fe80::1%eth0"))
    assert not sources(deny=("fe80::/10",)).permits(origin("fe80::1%wlan0"))
