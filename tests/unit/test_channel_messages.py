"""The packets of channels: written as RFC 4254 says, and read without copies or surprises."""

from __future__ import annotations

import pytest
from asyncssh.packet import Byte, String, UInt32
from hypothesis import given
from hypothesis import strategies as st

from reconciler.ssh.channels import messages
from reconciler.ssh.channels.fields import MalformedError
from reconciler.ssh.channels.messages import (
    HEAD,
    REASON_MAX,
    DirectTcp,
    DirectUnix,
    Forward,
    ForwardedTcp,
    ForwardedUnix,
    OpenRequest,
    Packet,
)
from unit.channel_ends import data, extended_data, request

words = st.integers(0, 0xFFFFFFFF)
texts = st.text(max_size=40)
forwards: st.SearchStrategy[Forward] = st.one_of(
    st.builds(DirectTcp, texts, words, texts, words),
    st.builds(ForwardedTcp, texts, words, texts, words),
    st.builds(DirectUnix, texts),
    st.builds(ForwardedUnix, texts),
)


def view(packet: bytes) -> memoryview:
    return memoryview(packet)


# What each request looks like: written with another library's encoders.
EXPECTED = [
    (
        DirectTcp("web", 80, "10.0.0.1", 5000),
        String("direct-tcpip"),
        String("web") + UInt32(80) + String("10.0.0.1") + UInt32(5000),
    ),
    (
        ForwardedTcp("", 8080, "::1", 5000),
        String("forwarded-tcpip"),
        String("") + UInt32(8080) + String("::1") + UInt32(5000),
    ),
    (DirectUnix("/run/a"), String("direct-streamlocal@openssh.com"), String("/run/a") + String("") + UInt32(0)),
    (ForwardedUnix("/run/b"), String("forwarded-streamlocal@openssh.com"), String("/run/b") + String("")),
]


@pytest.mark.parametrize(("what", "kind", "rest"), EXPECTED)
def test_a_request_is_encoded_as_specified(what: Forward, kind: bytes, rest: bytes) -> None:
    expected = Byte(90) + kind + UInt32(1) + UInt32(2) + UInt32(3) + rest
    assert messages.open_channel(1, 2, 3, what) == expected
    assert messages.parse_open(view(expected)) == OpenRequest(1, 2, 3, what)


@given(words, words, words, forwards)
def test_a_request_is_read_as_it_was_written(number: int, window: int, size: int, what: Forward) -> None:
    packet = messages.open_channel(number, window, size, what)
    assert messages.parse_open(view(packet)) == OpenRequest(number, window, size, what)


def test_a_path_may_be_any_bytes() -> None:
    what = DirectUnix(b"/run/\xff\xfe".decode("utf-8", "surrogateescape"))
    packet = messages.open_channel(1, 2, 3, what)
    assert b"/run/\xff\xfe" in packet
    assert messages.parse_open(view(packet)).what == what


def test_an_unknown_kind_of_channel_is_read_up_to_its_own_fields() -> None:
    packet = Byte(90) + String("session") + UInt32(1) + UInt32(2) + UInt32(3) + b"anything"
    assert messages.parse_open(view(packet)) == OpenRequest(1, 2, 3, None)


def test_the_other_packets_are_encoded_as_specified() -> None:
    assert messages.open_confirmation(1, 2, 3, 4) == Byte(91) + UInt32(1) + UInt32(2) + UInt32(3) + UInt32(4)
    assert messages.open_failure(1, 2, "no") == Byte(92) + UInt32(1) + UInt32(2) + String("no") + String("")
    assert messages.window_adjust(1, 2) == Byte(93) + UInt32(1) + UInt32(2)
    assert messages.short(Packet.EOF, 7) == Byte(96) + UInt32(7)
    buffer = bytearray(b"..#########data")
    messages.put_head(buffer, 2, 7, 4)
    assert bytes(buffer) == b".." + Byte(94) + UInt32(7) + String("data")


def test_a_failure_may_lack_its_language() -> None:
    packet = messages.open_failure(1, 2, "no")
    assert messages.parse_open_failure(view(packet)) == (2, "no")
    assert messages.parse_open_failure(view(packet[:-4])) == (2, "no")


def test_a_long_reason_is_cut_in_both_directions() -> None:
    packet = Byte(92) + UInt32(1) + UInt32(2) + String("é" * 100_000) + String("")
    assert messages.parse_open_failure(view(packet)) == (2, "é" * (REASON_MAX // 2))
    assert messages.open_failure(1, 2, "é" * 100_000) == messages.open_failure(1, 2, "é" * (REASON_MAX // 2))


def test_data_is_not_copied() -> None:
    packet = bytearray(extended_data(1, b"some data"))
    found = messages.parse_extended_data(memoryview(packet))
    packet[-1:] = b"!"
    assert bytes(found) == b"some dat!"


COMPLETE = {
    "open": (messages.parse_open, messages.open_channel(1, 2, 3, DirectTcp("web", 80, "a", 1)), 0),
    "unix": (messages.parse_open, messages.open_channel(1, 2, 3, ForwardedUnix("/a")), 0),
    "confirmation": (lambda packet: messages.parse_words(packet, 3), messages.open_confirmation(1, 2, 3, 4), 0),
    "failure": (messages.parse_open_failure, messages.open_failure(1, 2, "no"), 4),  # without a language
    "adjust": (lambda packet: messages.parse_words(packet, 1), messages.window_adjust(1, 2), 0),
    "extended": (messages.parse_extended_data, extended_data(1, b"data"), 0),
    "request": (messages.parse_wants_reply, request(1), 0),
}


@pytest.mark.parametrize("name", COMPLETE)
def test_a_packet_that_is_cut_anywhere_is_malformed(name: str) -> None:
    parse, packet, optional = COMPLETE[name]
    parse(view(packet))
    for length in range(5, len(packet)):
        if length == len(packet) - optional:
            continue
        with pytest.raises(MalformedError):
            parse(view(packet[:length]))


@pytest.mark.parametrize("name", [name for name in COMPLETE if name != "request"])
def test_bytes_after_the_last_field_are_malformed(name: str) -> None:
    parse, packet, _ = COMPLETE[name]
    with pytest.raises(MalformedError):
        parse(view(packet + b"?"))


@given(st.sampled_from(sorted(COMPLETE)), st.binary(max_size=60))
def test_a_parser_raises_nothing_but_malformed(name: str, rest: bytes) -> None:
    parse, _, _ = COMPLETE[name]
    try:
        parse(view(bytes(5) + rest))
    except MalformedError:
        return


def test_the_head_has_the_length_that_callers_reserve() -> None:
    assert len(data(1, b"")) == HEAD
