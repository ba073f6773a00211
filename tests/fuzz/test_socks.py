"""SOCKS byte streams split at random places have the same outcome as the whole stream."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fuzz.driver import Fuzz
from reconciler.core.socks5 import Connect, Handshake, Login, Refused, Send


class Outcome(NamedTuple):
    """The outcome of a handshake. `open` means that more bytes are needed. `sent` is all data sent to the client."""

    end: str
    sent: bytes = b""
    port: int = 0
    rest: bytes = b""


def driven(data: bytes, cuts: list[int], *, needs_auth: bool, ok: bool) -> Outcome:
    """Feed the stream in pieces as a caller does: answer logins, and feed nothing after the end."""
    handshake, sent = Handshake(needs_auth), b""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for begin, end in pairwise(edges):
        events = handshake.feed(data[begin:end])
        while events:
            event = events.pop(0)
            match event:
                case Send():
                    sent += event.data
                case Login():
                    assert not events, "a login is the last event until it is answered"
                    assert needs_auth
                    events = list(handshake.accept_login(ok))
                case Connect():
                    assert not events, "nothing follows Connect"
                    assert event.host.isascii()
                    assert event.host.isprintable()
                    return Outcome("connect", sent, event.port, event.rest + data[end:])
                case Refused():
                    assert not events, "nothing follows Refused"
                    assert event.why.isprintable()
                    return Outcome("refused", sent + event.data)
    return Outcome("open", sent)


def reference(data: bytes, *, needs_auth: bool, ok: bool) -> Outcome | None:
    """Parse a whole stream by RFC 1928 and 1929. Return None if the stream does not conform."""
    if len(data) < 2 or data[0] != 5 or len(data) < 2 + data[1]:
        return None
    methods, at = data[2 : 2 + data[1]], 2 + data[1]
    method = 2 if needs_auth else 0
    if method not in methods:
        return Outcome("refused", b"\x05\xff")
    sent = bytes((5, method))
    if needs_auth:
        if len(data) < at + 2 or data[at] != 1:
            return None
        name_end = at + 2 + data[at + 1]
        if len(data) <= name_end or len(data) < name_end + 1 + data[name_end]:
            return None
        if not data[at + 1] or not data[name_end] or not ok:
            return Outcome("refused", sent + b"\x01\x01")
        at, sent = name_end + 1 + data[name_end], sent + b"\x01\x00"
    if len(data) < at + 5 or data[at] != 5 or data[at + 1] != 1:
        return None
    length = {1: 4, 4: 16}.get(data[at + 3])
    if length is None or len(data) < at + 4 + length + 2:
        return None
    port = int.from_bytes(data[at + 4 + length : at + 6 + length])
    return Outcome("connect", sent, port, data[at + 6 + length :]) if port else None


def _prefixed(parts: SearchStrategy[bytes]) -> SearchStrategy[bytes]:
    return parts.map(lambda part: bytes((len(part),)) + part)


_GREETINGS = st.builds(lambda methods: b"\x05" + methods, _prefixed(st.binary(max_size=4) | st.just(b"\0\2")))
_LOGINS = st.builds(
    lambda name, password: b"\x01" + name + password,
    _prefixed(st.binary(max_size=255)),
    _prefixed(st.binary(max_size=255)),
)
_ADDRESSES = st.one_of(
    st.binary(min_size=4, max_size=4).map(lambda packed: b"\x01" + packed),
    st.binary(min_size=16, max_size=16).map(lambda packed: b"\x04" + packed),
    _prefixed(st.sampled_from([b"example.com", b"10.0.0.1", b"127.1", b""]) | st.binary(max_size=255)).map(
        lambda name: b"\x03" + name
    ),
)
_REQUESTS = st.builds(
    lambda command, address, port: bytes((5, command, 0)) + address + port.to_bytes(2),
    st.sampled_from([1, 1, 1, 1, 2, 3, 9]),
    _ADDRESSES,
    st.integers(0, 65535),
)
_WHOLE = st.builds(
    lambda greeting, login, request, rest: greeting + login + request + rest,
    _GREETINGS,
    st.just(b"") | _LOGINS,
    _REQUESTS,
    st.binary(max_size=20),
)
_OTHER = st.sampled_from(
    [b"\x04\x01\0\x50\x7f\0\0\1\0", b"GET / HTTP/1.1\r\n\r\n", b"CONNECT", b"\x16\x03\x01", b"\x05\x00"]
)


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    whole = bytearray(draw(_WHOLE))
    at = draw(st.integers(0, len(whole) - 1))
    match draw(st.integers(0, 2)):
        case 0:
            whole[at] = draw(st.integers(0, 255))
        case 1:
            del whole[at:]
        case _:
            whole[at:at] = draw(st.binary(max_size=3))
    return bytes(whole)


streams: SearchStrategy[bytes] = st.one_of(_WHOLE, _damaged(), _OTHER, st.binary(max_size=600))
cuts = st.lists(st.integers(0, 700), max_size=12)


def assert_as_read_in_one_go(asked: tuple[bytes, list[int], bool, bool]) -> None:
    data, where, needs_auth, ok = asked
    found = driven(data, where, needs_auth=needs_auth, ok=ok)
    assert found == driven(data, [], needs_auth=needs_auth, ok=ok), "it matters where the stream is cut"
    assert found == driven(data, list(range(len(data))), needs_auth=needs_auth, ok=ok), "byte by byte it differs"
    expected = reference(data, needs_auth=needs_auth, ok=ok)
    assert expected in (None, found)
    if found.end == "connect" and needs_auth:
        assert ok, "it connects although the login failed"


def test_a_stream_ends_as_if_it_were_read_in_one_go(fuzz: Fuzz) -> None:
    fuzz.run(st.tuples(streams, cuts, st.booleans(), st.booleans()), assert_as_read_in_one_go, examples=300)
