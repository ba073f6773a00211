"""Attacks of a misbehaving SSH server: one function for each kind, and functions for their random parts.

Each takes asyncssh's server side of a connection and a source of random numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from asyncssh.packet import Boolean, Byte, MPInt, NameList, String, UInt32

IGNORE, UNIMPLEMENTED, DEBUG, SERVICE_ACCEPT, EXT_INFO = 2, 3, 4, 6, 7
KEXINIT, NEWKEYS, KEX_REPLY, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_BANNER, PK_OK = 20, 21, 31, 51, 52, 53, 60
INFO_REQUEST, GLOBAL_REQUEST, REQUEST_SUCCESS, REQUEST_FAILURE = PK_OK, 80, 81, 82
OPEN, CONFIRMATION, OPEN_FAILURE, ADJUST, DATA, EXTENDED, EOF, CLOSE, REQUEST = 90, 91, 92, 93, 94, 95, 96, 97, 98

SECONDS = 0.5  # duration of a continuous attack
TEXTS = (b"", b"\xff\xfe\x00", b"a\nb\x1b[31m", "\u202eübel".encode(), b"x" * 3000, b"%s%n{0}")

Attack = Callable[[Any, random.Random], Awaitable[None]]


# --- random parts -----------------------------------------------------------------------------------------------


def text(rng: random.Random) -> bytes:
    return rng.choice((*TEXTS, rng.randbytes(rng.randrange(200))))


def number(rng: random.Random) -> int:
    return rng.choice((0, 1, 2, 3, 255, 32768, 1 << 31, 0xFFFFFFFF, rng.getrandbits(32)))


def field(rng: random.Random) -> bytes:
    kind = rng.randrange(6)
    return (
        String(text(rng)),
        UInt32(number(rng)),
        Boolean(rng.random() < 0.5),
        UInt32(number(rng)) + rng.randbytes(rng.randrange(20)),  # a string with a length that is wrong
        MPInt(rng.getrandbits(rng.choice((8, 300, 9000)))),
        rng.randbytes(rng.randrange(64)),
    )[kind]


def fields(rng: random.Random) -> bytes:
    return b"".join(field(rng) for _ in range(rng.randrange(7)))


def channel_of(conn: Any, rng: random.Random) -> int:
    """Return the client's number of a live channel, or sometimes a random number."""
    numbers = [chan._send_chan for chan in conn._channels.values() if chan._send_chan is not None]
    return rng.choice(numbers) if numbers and rng.random() < 0.8 else number(rng)


def kexinit(rng: random.Random) -> bytes:
    names = [b"curve25519-sha256", b"ssh-ed25519", b"aes128-ctr", b"hmac-sha2-256", b"none", text(rng), b"x,y,,z"]
    lists = b"".join(NameList(rng.choices(names, k=rng.randrange(4))) for _ in range(10))
    return rng.randbytes(16) + lists + Boolean(rng.random() < 0.2) + UInt32(0)


def opening(conn: Any, rng: random.Random) -> bytes:
    kind = rng.choice((b"forwarded-tcpip", b"forwarded-tcpip", b"session", b"x11", b"direct-tcpip", text(rng)))
    ports = [key for key in conn._local_listeners if isinstance(key, tuple)] or [("127.0.0.1", 1)]
    host, port = rng.choice(ports)
    size = rng.choice((32768, 32768, 32768, 1, 0, 0xFFFFFFFF))
    where = String(host) + UInt32(port) + String(text(rng)) + UInt32(number(rng))
    return String(kind) + UInt32(number(rng)) + UInt32(number(rng)) + UInt32(size) + where


PAYLOADS: dict[int, Callable[[Any, random.Random], bytes]] = {
    IGNORE: lambda _, rng: String(text(rng)),
    UNIMPLEMENTED: lambda _, rng: UInt32(number(rng)),
    DEBUG: lambda _, rng: Boolean(True) + String(text(rng)) + String(b""),
    EXT_INFO: lambda _, rng: UInt32(number(rng)) + fields(rng),
    KEXINIT: lambda _, rng: kexinit(rng),
    GLOBAL_REQUEST: lambda _, rng: (
        String(rng.choice((b"keepalive@openssh.com", b"hostkeys-00@openssh.com", b"no-such@x", text(rng))))
        + Boolean(rng.random() < 0.7)
        + rng.choice((b"", String(b"key"), fields(rng)))
    ),
    REQUEST_SUCCESS: lambda _, rng: rng.choice((b"", UInt32(number(rng)), fields(rng))),
    REQUEST_FAILURE: lambda _, rng: rng.choice((b"", String(text(rng)))),
    OPEN: opening,
    CONFIRMATION: lambda conn, rng: (
        UInt32(channel_of(conn, rng)) + b"".join(UInt32(number(rng)) for _ in range(3)) + rng.choice((b"", b"more"))
    ),
    OPEN_FAILURE: lambda conn, rng: UInt32(channel_of(conn, rng)) + UInt32(number(rng)) + String(text(rng)) * 2,
    ADJUST: lambda conn, rng: UInt32(channel_of(conn, rng)) + UInt32(number(rng)),
    DATA: lambda conn, rng: UInt32(channel_of(conn, rng)) + String(text(rng)),
    EXTENDED: lambda conn, rng: UInt32(channel_of(conn, rng)) + UInt32(number(rng)) + String(text(rng)),
    EOF: lambda conn, rng: UInt32(channel_of(conn, rng)),
    CLOSE: lambda conn, rng: UInt32(channel_of(conn, rng)),
    REQUEST: lambda conn, rng: UInt32(channel_of(conn, rng)) + String(text(rng)) + Boolean(True) + fields(rng),
}


# --- attacks after the login ------------------------------------------------------------------------------------


async def random_packets(conn: Any, rng: random.Random) -> None:
    """Send packets of every type, with fields of every kind in any order."""
    for _ in range(rng.choice((1, 5, 50))):
        conn.send_packet(rng.choice((rng.randrange(256), rng.choice(list(PAYLOADS)))), fields(rng))
        await asyncio.sleep(rng.choice((0, 0, 0.01)))


async def nearly_valid(conn: Any, rng: random.Random) -> None:
    """Send well-formed packets with random values. Some are truncated."""
    await asyncio.sleep(rng.choice((0, 0.2)))
    for _ in range(rng.choice((1, 3, 10, 100))):
        kind = rng.choice(list(PAYLOADS))
        payload = PAYLOADS[kind](conn, rng)
        conn.send_packet(kind, payload[: rng.randrange(len(payload) + 1)] if rng.random() < 0.2 else payload)
        await asyncio.sleep(rng.choice((0, 0, 0.01)))


async def flood(conn: Any, rng: random.Random) -> None:
    """Send one packet as often as possible. Half of the time, do not read the answers."""
    kind = rng.choice((IGNORE, UNIMPLEMENTED, DEBUG, GLOBAL_REQUEST, OPEN, ADJUST, DATA, REQUEST, 192))
    payload = PAYLOADS[kind](conn, rng) if kind in PAYLOADS else b""
    if kind == OPEN:  # for an existing listener
        await asyncio.sleep(0.2)
        payload = opening(conn, random.Random(1))
    if kind in (ADJUST, DATA, REQUEST):
        await until_channel(conn)
        start = UInt32(channel_of(conn, random.Random(1)))
        payload = start + {ADJUST: UInt32(0), DATA: String(b"x"), REQUEST: String(b"x") + Boolean(True)}[kind]
    if rng.random() < 0.5:
        conn._transport.pause_reading()
    await repeat(conn, kind, payload)


async def flood_of_large_packets(conn: Any, rng: random.Random) -> None:
    await repeat(conn, rng.choice((IGNORE, DEBUG, 192)), b"\0" + String(bytes(200_000)) + String(b""))


async def compression_bomb(conn: Any, _: random.Random) -> None:
    """Send a packet that expands a thousandfold."""
    conn.send_packet(IGNORE, String(b"x"))  # begins the stream
    if conn._compressor is not None:
        conn._compressor = BOMB
    await repeat(conn, IGNORE, String(b"bomb"), most=20)  # an empty one is not sent: see ssh_server.Session


async def key_exchange_that_does_not_end(conn: Any, rng: random.Random) -> None:
    conn._send_kexinit()
    await asyncio.sleep(rng.choice((0, 0.1)))
    conn._transport.pause_reading()
    if rng.random() < 0.5:
        conn._kex_complete = True
        await repeat(conn, rng.choice((IGNORE, GLOBAL_REQUEST, DATA)), String(b"keepalive@openssh.com") + Boolean(True))
    else:
        await asyncio.sleep(SECONDS)


async def key_exchanges_without_end(conn: Any, _: random.Random) -> None:
    end = asyncio.get_running_loop().time() + SECONDS
    while asyncio.get_running_loop().time() < end:
        if conn._kex_complete:
            conn._send_kexinit()
            conn._kexinit_sent = True
        await asyncio.sleep(0)


async def wrong_key_exchange(conn: Any, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 4)):
        kind = rng.choice((KEXINIT, NEWKEYS, 30, 31, 32, 33, 34))
        conn.send_packet(kind, kexinit(rng) if kind == KEXINIT else fields(rng))
        await asyncio.sleep(0)


async def wrong_channel(conn: Any, rng: random.Random) -> None:
    """Send messages that do not fit the state of a channel."""
    await until_channel(conn)
    start = UInt32(channel_of(conn, random.Random(1)))
    steps = {
        ADJUST: start + UInt32(0xFFFFFFFF),
        DATA: start + String(bytes(rng.choice((1, 30_000, 260_000)))),
        EXTENDED: start + UInt32(1) + String(b"x"),
        EOF: start,
        CLOSE: start,
        CONFIRMATION: start + UInt32(0) * 3,
        OPEN_FAILURE: start + UInt32(1) + String(b"") * 2,
        99: start,
        100: start,
    }
    for kind in rng.choices(list(steps), k=rng.choice((2, 5, 40))):
        conn.send_packet(kind, steps[kind])


async def bytes_that_are_no_packets(conn: Any, rng: random.Random) -> None:
    conn._send(rng.randbytes(rng.choice((1, 16, 5000, 300_000))))
    await asyncio.sleep(rng.choice((0, SECONDS)))


async def goodbye(conn: Any, rng: random.Random) -> None:
    conn.send_packet(1, UInt32(number(rng)) + String(text(rng)) + String(rng.choice((b"", b"en", b"\xff"))))


async def wrong_padding(conn: Any, rng: random.Random) -> None:
    """Send a packet without a payload, or with more padding than its length."""
    header, packet = UInt32(16), Byte(rng.choice((0, 15, 16, 255))) + bytes(15)
    if conn._send_encryption:
        packet, mac = conn._send_encryption.encrypt_packet(conn._send_seq, header, packet)
    else:
        packet, mac = header + packet, b""
    conn._send(packet + mac)
    await asyncio.sleep(0.1)


async def never_answers(conn: Any, rng: random.Random) -> None:
    conn._transport.pause_reading() if rng.random() < 0.5 else None
    await asyncio.sleep(SECONDS)


async def long_lists(conn: Any, rng: random.Random) -> None:
    """Send packets that are slow to parse."""
    names = NameList([b"%d" % (number % 10) for number in range(100_000)])
    kind, payload = rng.choice(
        (
            (KEXINIT, bytes(16) + names + NameList([b"x"]) * 9 + bytes(5)),
            (KEXINIT, bytes(16) + NameList([b"curve25519-sha256"]) + NameList([b"none"]) + names + bytes(33)),
            (EXT_INFO, UInt32(30_000) + String(b"") * 60_000),
            (EXT_INFO, UInt32(1) + String(b"server-sig-algs") + names),
            (INFO_REQUEST, String(b"") * 3 + UInt32(50_000) + (String(b"") + Boolean(False)) * 50_000),
            (USERAUTH_FAILURE, names + Boolean(True)),
            (PK_OK, names + String(b"key")),
        )
    )
    await repeat(conn, kind, payload)


async def one_byte_at_a_time(conn: Any, rng: random.Random) -> None:
    """Send packets of every size in segments of one byte."""
    sent = bytearray()
    conn._send = sent.extend
    for _ in range(50):
        conn.send_packet(rng.choice((DEBUG, IGNORE)), b"\0" + String(bytes(rng.randrange(3000))) + String(b""))
    end = asyncio.get_running_loop().time() + SECONDS
    while sent and conn._transport is not None and asyncio.get_running_loop().time() < end:
        conn._transport.write(bytes(sent[:1]))
        del sent[:1]
        await asyncio.sleep(0)


async def many_channels(conn: Any, rng: random.Random) -> None:
    """Open many channels from an existing listener and close them all at once."""
    await asyncio.sleep(0.2)
    for number in range(3000):
        where = next((key for key in conn._local_listeners if isinstance(key, tuple)), ("127.0.0.1", 1))
        start = String(b"forwarded-tcpip") + UInt32(number) + UInt32(1 << 20) + UInt32(32768)
        conn.send_packet(OPEN, start + String(where[0]) + UInt32(where[1]) + String(b"127.0.0.1") + UInt32(1))
        if number % 100 == 0:
            await asyncio.sleep(0.02)
    await asyncio.sleep(rng.choice((0, SECONDS)))


async def requests_of_channels(conn: Any, rng: random.Random) -> None:
    """Send session requests on channels that are not sessions."""
    await until_channel(conn)
    start = UInt32(channel_of(conn, random.Random(1)))
    name = rng.choice(
        (b"exit-status", b"exit-signal", b"shell", b"pty-req", b"eow@openssh.com", b"xon-xoff", text(rng))
    )
    await repeat(conn, REQUEST, start + String(name) + Boolean(rng.random() < 0.8) + UInt32(1), most=2000)
    for kind in (EOF, EOF, CLOSE, CLOSE):
        conn.send_packet(kind, start)


async def window_beyond_its_size(conn: Any, _: random.Random) -> None:
    """Send window adjustments beyond 2^32 bytes."""
    await until_channel(conn)
    await repeat(conn, ADJUST, UInt32(channel_of(conn, random.Random(1))) + UInt32(0xFFFFFFFF), most=400)


async def odd_answers(conn: Any, rng: random.Random) -> None:
    """Answer global requests in any way, or not at all."""
    process = conn.process_packet

    def answer(kind: int, sequence: int, packet: Any) -> Any:
        if kind != GLOBAL_REQUEST:
            return process(kind, sequence, packet)
        for _ in range(rng.choice((0, 1, 1, 1, 2))):
            reply = rng.choice((UNIMPLEMENTED, REQUEST_SUCCESS, REQUEST_FAILURE))
            data = rng.choice((b"", UInt32(sequence), UInt32(number(rng)), String(text(rng)), text(rng)))
            conn.send_packet(reply, UInt32(sequence + rng.choice((0, 1, 7))) if reply == UNIMPLEMENTED else data)
        return True

    conn.process_packet = answer
    await asyncio.sleep(rng.choice((0.2, SECONDS)))


async def late_packets(conn: Any, rng: random.Random) -> None:
    """Close channels, and go on as if they were open."""
    await until_channel(conn)
    await asyncio.sleep(0.05)  # more channels may open
    used = [chan._send_chan for chan in conn._channels.values() if chan._send_chan is not None]
    for chan in used:
        conn.send_packet(CLOSE, UInt32(chan))
    for _ in range(rng.choice((1, 20, 200))):
        kind = rng.choice((ADJUST, DATA, EXTENDED, EOF, CLOSE, REQUEST, 99, 100))
        payload = {ADJUST: UInt32(1), DATA: String(b"late"), EXTENDED: UInt32(1) + String(b"late")}.get(kind, b"")
        if kind == REQUEST:
            payload = String(b"x") + Boolean(True)
        for chan in used:
            conn.send_packet(kind, UInt32(chan) + payload)
        await asyncio.sleep(0)


# --- attacks during the login -----------------------------------------------------------------------------------


async def banners(conn: Any, rng: random.Random) -> None:
    await repeat(conn, USERAUTH_BANNER, String(text(rng)) + String(b""))


async def questions(conn: Any, _: random.Random) -> None:
    await repeat(conn, INFO_REQUEST, String(b"") * 3 + UInt32(0))


async def random_login(conn: Any, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 20)):
        kind = rng.choice((SERVICE_ACCEPT, EXT_INFO, 50, 51, 52, 53, 60, 61, 63, 80, 90, 93))
        conn.send_packet(kind, rng.choice((b"", fields(rng))))
        await asyncio.sleep(0)


async def lists_in_the_login(conn: Any, rng: random.Random) -> None:
    await long_lists(conn, rng)


# --- attacks before SSH -----------------------------------------------------------------------------------------


def packet(payload: bytes) -> bytes:
    return UInt32(len(payload) + 5) + Byte(4) + payload + bytes(4)


def greetings(rng: random.Random) -> bytes:
    """Return bytes to send instead of a version and a key exchange."""
    lists = [NameList([b"%d" % i for i in range(40_000)])] * 1 + [NameList([b"none"])] * 9
    return rng.choice(
        (
            b"SSH-2.0-\xff\xfe\r\n",
            b"SSH-2.0-x\r\n" + rng.randbytes(3000),
            b"SSH-2.0-" + b"x" * 9000 + b"\r\n",
            b"SSH-1.5-old\r\n",
            b"hello\r\n" * 3000,
            rng.randbytes(20_000),
            b"SSH-2.0-x\r\n" + packet(Byte(KEXINIT) + bytes(16) + b"".join(lists) + bytes(5)),
            b"SSH-2.0-x\r\n" + packet(Byte(KEXINIT) + fields(rng)),
            b"SSH-2.0-x\r\n" + packet(Byte(IGNORE) + String(b"x")) * 20_000,
            b"SSH-2.0-x\r\n" + packet(Byte(DEBUG) + b"\0" + String(text(rng)) + String(b"")) * 5_000,
            b"SSH-2.0-x\r\n" + packet(b""),
            b"SSH-2.0-x\r\n" + UInt32(12) + bytes(12),
            b"SSH-2.0-x\r\n" + UInt32(0) + bytes(12),
            b"SSH-2.0-x\r\n" + packet(Byte(rng.randrange(256)) + fields(rng)) * 3,
        )
    )


async def no_ssh(sock: socket.socket, rng: random.Random) -> None:
    with contextlib.suppress(OSError, TimeoutError), sock:
        await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(sock, greetings(rng)), SECONDS)
        await asyncio.sleep(rng.choice((0.05, SECONDS)))


# --- helpers -----------------------------------------------------------------------------------------------------


class Bomb:
    """Replaces asyncssh's compressor: each packet decompresses to many zeros."""

    def __init__(self) -> None:
        # The connection's stream has already begun, so the block must not refer to earlier data.
        stream = zlib.compressobj(wbits=-15)
        self._block = b"".join(stream.compress(bytes(1 << 20)) for _ in range(200)) + stream.flush(zlib.Z_FULL_FLUSH)

    def compress(self, _: bytes) -> bytes:
        return self._block


async def repeat(conn: Any, kind: int, payload: bytes, most: int = 1 << 30) -> None:
    """Send the packet for `SECONDS`, at most `most` times, without filling the server's own memory."""
    end = asyncio.get_running_loop().time() + SECONDS
    while most > 0 and conn._transport is not None and asyncio.get_running_loop().time() < end:
        for _ in range(min(most, 200)):
            conn.send_packet(kind, payload)
        most -= 200
        while conn._transport is not None and conn._transport.get_write_buffer_size() > 1 << 20:
            await asyncio.sleep(0.001)
            if asyncio.get_running_loop().time() > end:
                return
        await asyncio.sleep(0)


async def until_channel(conn: Any) -> None:
    """Wait briefly for the client to open a channel."""
    for _ in range(100):
        if any(chan._send_chan is not None for chan in conn._channels.values()):
            return
        await asyncio.sleep(0.01)


BOMB = Bomb()
AFTER_LOGIN: tuple[Attack, ...] = (
    random_packets,
    nearly_valid,
    flood,
    flood_of_large_packets,
    compression_bomb,
    key_exchange_that_does_not_end,
    key_exchanges_without_end,
    wrong_key_exchange,
    wrong_channel,
    bytes_that_are_no_packets,
    goodbye,
    wrong_padding,
    never_answers,
    long_lists,
    one_byte_at_a_time,
    many_channels,
    requests_of_channels,
    window_beyond_its_size,
    odd_answers,
    late_packets,
)
BEFORE_LOGIN: tuple[Attack, ...] = (banners, questions, random_login, random_packets, lists_in_the_login)
ALL: tuple[Any, ...] = (*AFTER_LOGIN, *AFTER_LOGIN, *BEFORE_LOGIN, no_ssh, no_ssh)
