"""Access rules against a reference on integers, and against the system's resolver."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fuzz.driver import Fuzz
from reconciler.core.rules.access import DestinationRules, SourceRules
from reconciler.core.rules.origin import tcp_origin

_MAPPED = 0xFFFF << 32
_BEFORE_V4 = (  # the first 96 bits of addresses that end in an IPv4 address
    *(0, 0xFFFF0000),  # IPv4-compatible, IPv4-translated
    *(0x64FF9B << 64, 0x0064FF9B0001 << 48),  # NAT64
    *(0x5EFE, 0xFD00 << 80 | 0x02005EFE, 0xFE80 << 80 | 0x5EFE),  # ISATAP
)


class Net(NamedTuple):
    """A network as integers: 32 or 128 bits, with the first `length` bits of `number`."""

    bits: int
    number: int
    length: int

    @property
    def text(self) -> str:
        address = IPv4Address(self.number) if self.bits == 32 else IPv6Address(self.number)
        return f"{address}/{self.length}"

    def holds(self, bits: int, number: int) -> bool:
        net = self
        if self.bits == 128 and self.length >= 96 and self.number >> 32 == 0xFFFF:  # RFC 4291 section 2.5.5.2
            net = Net(32, self.number & 0xFFFFFFFF, self.length - 96)
        return bits == net.bits and number >> (bits - net.length) == net.number >> (bits - net.length)


def net(bits: int, number: int, length: int) -> Net:
    return Net(bits, number >> (bits - length) << (bits - length), length)


def unmapped(bits: int, number: int) -> tuple[int, int]:
    return (32, number & 0xFFFFFFFF) if bits == 128 and number >> 32 == 0xFFFF else (bits, number)


# A small set of values, so that rules and addresses often match.
_BYTES = st.sampled_from([0, 1, 7, 10, 127, 128, 192, 255])
_V4 = st.builds(lambda *octets: int.from_bytes(octets), _BYTES, _BYTES, _BYTES, _BYTES)
_V4 |= st.sampled_from([0xA9FEA9FE, 0xA9FE0001, 0x646464C8, 0xA83F8110, 0xC00000C0])  # metadata and link-local
_V6 = st.one_of(
    st.builds(lambda high, low: high << 120 | low, st.sampled_from([0x20, 0xFD, 0xFE, 0]), _BYTES),
    st.sampled_from([0xFE80 << 112 | 1, 0xFD000EC2 << 96 | 0x254, 0xFD2000CE << 96 | 0x254]),
    _V4.map(lambda number: _MAPPED | number),
    st.builds(lambda prefix, number: prefix << 32 | number, st.sampled_from(_BEFORE_V4), _V4),
    st.builds(lambda number, shift: 0x0064FF9B0001 << 80 | number << shift, _V4, st.sampled_from([0, 24, 32, 40, 48])),
    _V4.map(lambda number: 0x2002 << 112 | number << 80 | 1),
    _V4.map(lambda number: 0x20010000 << 96 | number ^ 0xFFFFFFFF),
)
_ADDRESSES: SearchStrategy[tuple[int, int]] = st.tuples(st.just(32), _V4) | st.tuples(st.just(128), _V6)
_NETS = st.one_of(
    st.builds(net, st.just(32), _V4, st.integers(0, 32)),
    st.builds(net, st.just(128), _V6, st.integers(0, 128)),
)


# --- sources ---------------------------------------------------------------------------------------------------


def assert_sources_as_the_numbers_say(asked: tuple[list[Net], list[Net], tuple[int, int], bool]) -> None:
    allow, deny, address, scoped = asked
    bits, number = address
    text = str(IPv4Address(number) if bits == 32 else IPv6Address(number))
    seen = unmapped(bits, number)
    expected = not any(one.holds(*seen) for one in deny) and (not allow or any(one.holds(*seen) for one in allow))
    rules = SourceRules.parse([one.text for one in allow], [one.text for one in deny])
    is_scoped = scoped and bits == 128
    if is_scoped and not IPv6Address(number).is_link_local:  # only these have a scope: the origin is unknown
        expected = not (allow or deny)
    origin = tcp_origin(f"{text}%eth0" if is_scoped else text, 1)
    assert rules.permits(origin) is expected


def test_sources_are_permitted_as_the_numbers_say(fuzz: Fuzz) -> None:
    asked = st.tuples(st.lists(_NETS, max_size=3), st.lists(_NETS, max_size=3), _ADDRESSES, st.booleans())
    fuzz.run(asked, assert_sources_as_the_numbers_say, examples=400)


# --- destinations by address -----------------------------------------------------------------------------------


def embedded(number: int) -> list[int]:
    """Return the IPv4 addresses that a connection to this IPv6 address may reach, by the layouts in the RFCs."""
    raw = number.to_bytes(16)
    found = []
    if raw[:12] in (bytes(12), bytes(8) + b"\xff\xff\0\0") and number > 1:  # RFC 4291 2.5.5.1, RFC 2765 2.1
        found.append(raw[12:])
    if raw[:12] == bytes.fromhex("0064ff9b0000000000000000") or raw[:6] == bytes.fromhex("0064ff9b0001"):
        found.append(raw[12:])  # RFC 6052 2.2, /96
    if raw[:6] == bytes.fromhex("0064ff9b0001"):  # RFC 8215: /48, /56 and /64, all of them without byte 8
        found += [raw[6:8] + raw[9:11], raw[7:8] + raw[9:12], raw[9:13]]
    if raw[:2] == bytes.fromhex("2002"):  # RFC 3056 2
        found.append(raw[2:6])
    if raw[:4] == bytes.fromhex("20010000"):  # RFC 4380 4: all bits inverted
        found.append(bytes(0xFF - byte for byte in raw[12:]))
    if raw[8:12] in (bytes.fromhex("00005efe"), bytes.fromhex("02005efe")):  # RFC 5214 6.1
        found.append(raw[12:])
    return [int.from_bytes(one) for one in found]


def faces(bits: int, number: int) -> Sequence[tuple[int, int]]:
    """Return the addresses that a connection to this address may reach."""
    itself = unmapped(bits, number)
    found = [itself]
    if itself[0] == 128:
        found += [(32, inside) for inside in embedded(itself[1])]
    if (32, 0) in found:
        found.append((32, 0x7F000001))
    if itself == (128, 0):
        found.append((128, 1))
    return found


# Networks of link-local addresses and cloud metadata services, as listed in `core/rules/metadata.py`.
_SPECIAL = tuple(
    Net(128 if ":" in text else 32, int(ip_address(text)), length)
    for text, length in (
        ("169.254.0.0", 16),
        ("fe80::", 10),
        ("100.100.100.200", 32),
        ("168.63.129.16", 32),
        ("192.0.0.192", 32),
        ("fd00:ec2::", 32),
        ("fd00:c1::a9fe:a9fe", 128),
        ("fd00:42::42", 128),
        ("fd20:ce::254", 128),
    )
)


def names(one: Net, bits: int, number: int) -> bool:
    """Return True if an allow rule for this network names the special address and not only a wide range around it."""
    if one.bits == 128 and one.length >= 96 and one.number >> 32 == 0xFFFF:
        one = Net(32, one.number & 0xFFFFFFFF, one.length - 96)
    inside = any(special.holds(one.bits, one.number) and one.length >= special.length for special in _SPECIAL)
    return one.holds(bits, number) and (one.length == one.bits or inside)


def rule(one: Net) -> str:
    return f"[{one.text}]:*" if one.bits == 128 else f"{one.text}:*"


def assert_destinations_as_the_numbers_say(asked: tuple[list[Net], list[Net], tuple[int, int]]) -> None:
    allow, deny, (bits, number) = asked
    text = str(IPv4Address(number) if bits == 32 else IPv6Address(number))
    permitted = DestinationRules.parse(map(rule, allow), map(rule, deny)).permits(text, 443)
    itself, all_faces = unmapped(bits, number), faces(bits, number)
    denied = any(one.holds(*face) for one in deny for face in all_faces)
    allowed = any(one.holds(*itself) for one in allow)
    special = any(one.holds(*face) for one in _SPECIAL for face in all_faces)
    named = any(names(one, *itself) for one in allow)
    assert permitted is (not denied and (allowed or not allow) and (named or not special))


def test_destinations_are_permitted_as_the_numbers_say(fuzz: Fuzz) -> None:
    asked = st.tuples(st.lists(_NETS, max_size=3), st.lists(_NETS, max_size=3), _ADDRESSES)
    fuzz.run(asked, assert_destinations_as_the_numbers_say, examples=400)


# --- destinations by any spelling ------------------------------------------------------------------------------


def _number(how: int, number: int) -> str:
    return (f"{number}", f"{number:#x}", f"0{number:o}", f"{number:#X}", f"{number:#010x}")[how]


@st.composite
def _spellings(draw: st.DrawFn) -> str:
    """A spelling of an address by inet_aton, RFC 4291 or a URL."""
    number = draw(_V4)
    how = [draw(st.integers(0, 4)) for _ in range(4)]
    octets = number.to_bytes(4)
    match draw(st.integers(0, 7)):
        case 0:
            text = ".".join(_number(how[i], octets[i]) for i in range(4))
        case 1:
            text = f"{_number(how[0], octets[0])}.{_number(how[1], number & 0xFFFFFF)}"
        case 2:
            text = f"{_number(how[0], octets[0])}.{_number(how[1], octets[1])}.{_number(how[2], number & 0xFFFF)}"
        case 3:
            text = _number(how[0], number)
        case 4:
            text = f"::ffff:{IPv4Address(number)}"
        case 5:
            text = f"0:0:0:0:0:FFFF:{number >> 16:x}:{number & 0xFFFF:04X}"
        case 6:
            text = f"64:ff9b::{IPv4Address(number)}"
        case _:
            text = str(IPv4Address(number))
    ending = draw(st.sampled_from(["", "", "", ".", " ", "%lo", "%0", "\t", "\0", "/32", ":80", "]"]))
    beginning = draw(st.sampled_from(["", "", "", " ", "[", "0", "+", "\t", "::", "."]))
    return beginning + text + ending


_texts = _spellings() | st.text("0123456789abcdefxX.:%[] ", max_size=20)


def resolved(text: str) -> tuple[int, int] | None:
    """Return the address that the C library reads from this text, without a name server."""
    try:
        found = socket.getaddrinfo(text, 443, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, ValueError, UnicodeError):
        return None
    packed = socket.inet_pton(found[0][0], str(found[0][4][0]).partition("%")[0])
    return len(packed) * 8, int.from_bytes(packed)


def assert_no_spelling_passes(asked: tuple[str, bool]) -> None:
    """A deny rule matches every spelling that a resolver accepts. An allow rule for other addresses matches none."""
    text, allow_all = asked
    meant = resolved(text)
    if meant is None:
        return
    for bits, number in faces(*meant):
        rules = DestinationRules.parse(["*:*"] if allow_all else [], [rule(net(bits, number, bits))])
        assert not rules.permits(text, 443), f"{text!r} is {number:#x} and passes the deny of it"
        other = net(bits, number ^ 0x100, bits)
        assert not DestinationRules.parse([rule(other), "*.internal:443"], []).permits(text, 443)


def test_no_spelling_of_an_address_passes_its_deny(fuzz: Fuzz) -> None:
    fuzz.run(st.tuples(_texts, st.booleans()), assert_no_spelling_passes, examples=400)


# --- destinations by name --------------------------------------------------------------------------------------

_LABELS = st.sampled_from(["a", "db", "internal", "example", "x-1", "_s"])
_NAMES = st.lists(_LABELS, min_size=1, max_size=3).map(".".join)
_PATTERNS = _NAMES | _NAMES.map(lambda name: f"*.{name}")


def covers(pattern: str, name: str) -> bool:
    labels, wanted = name.split("."), pattern.split(".")
    if wanted[0] == "*":
        return len(labels) >= len(wanted) and labels[-len(wanted) + 1 :] == wanted[1:]
    return labels == wanted


def assert_names_as_labels_say(asked: tuple[list[str], list[str], str, int, bool]) -> None:
    allow, deny, name, case, dot = asked
    spelled = "".join(c.upper() if case >> i & 1 else c for i, c in enumerate(name)) + ("." if dot else "")
    denied = any(covers(one, name) for one in deny)
    allowed = not allow or any(covers(one, name) for one in allow)
    rules = DestinationRules.parse([f"{one}:1-1000" for one in allow], [f"{one}:443" for one in deny])
    assert rules.permits(spelled, 443) is (allowed and not denied)
    assert rules.permits(spelled, 80) is allowed
    assert rules.permits(spelled, 1001) is (not allow)


def test_names_are_permitted_as_their_labels_say(fuzz: Fuzz) -> None:
    patterns = st.lists(_PATTERNS, max_size=3)
    asked = st.tuples(patterns, patterns, _NAMES, st.integers(0, 255), st.booleans())
    fuzz.run(asked, assert_names_as_labels_say, examples=300)
