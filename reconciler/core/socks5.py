"""The server side of a SOCKS5 handshake: bytes in, events and bytes out. No IO, no secrets, no clock.

Implements RFC 1928 (CONNECT only) and RFC 1929 (user name and password). Input: the client's bytes, in pieces of any
size. Output:
  Send(data)                send `data` to the client and continue
  Login(username, password) check the login, then call `accept_login(ok)`; the events that it returns come next
  Connect(host, port, rest) stop reading, dial, answer with `reply(code)`; `rest` is the client's first data
  Refused(data, why)        send `data` if it is not empty, then close; no event follows

    GREETING --needs_auth--> LOGIN --Login--> CHECKING --accept_login(True)--> REQUEST --Connect--> CONNECTED
        `---------------------------otherwise----------------------------------^        (Refused from any: REFUSED)

No input raises an exception. The buffer holds at most one incomplete message (513 bytes), or 64 KiB while a login is
checked. The caller limits the time.

Decisions where the RFCs leave a choice:
- A tunnel with users accepts only method 02, a tunnel without users only method 00. A client that requires a login on a
  tunnel without users is refused, as `ssh -D` does: accepting any password would look like a check.
- An empty user name or password is a failed login (RFC 1929 requires at least one byte for each).
- Names are ASCII, at most 253 characters, of letters, digits, `-`, `_` and dots. International names must be in their
  xn-- form: in another encoding, the rules and the server's resolver could read different names. An address sent as a
  name is passed on as an address, IPv4-mapped IPv6 as IPv4. A number that resolvers accept as an address (`127.1`) is
  refused.
- A request is read to its end before it is refused, so that the close does not discard the reply.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from reconciler.core.rules.access import read_host
from reconciler.core.secret import Secret

_VERSION: Final = 5
_LOGIN_VERSION: Final = 1  # RFC 1929: the version of the negotiation, not of SOCKS
_NO_LOGIN, _PASSWORD, _NO_METHOD = 0x00, 0x02, 0xFF
_CONNECT, _BIND, _UDP = 1, 2, 3
_IPV4, _NAME, _IPV6 = 1, 3, 4
_EARLY_LIMIT: Final = 65536
_LONGEST_HTTP_METHOD: Final = 8

_LOGIN_OK = b"\x01\x00"
_LOGIN_FAILED = b"\x01\x01"
_SOCKS4_REJECTED = b"\x00\x5b" + bytes(6)
_HTTP_REFUSAL = (
    b"HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This is a SOCKS5 proxy, not an HTTP proxy: use socks5h://HOST:PORT\n"
)


class Reply(IntEnum):
    """The reply codes of RFC 1928 section 6."""

    SUCCEEDED = 0
    GENERAL_FAILURE = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    CONNECTION_REFUSED = 5
    TTL_EXPIRED = 6
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_TYPE_NOT_SUPPORTED = 8


def reply(code: Reply) -> bytes:
    """Return the final reply. Its bound address is 0.0.0.0:0, because the SSH server does not report the real one."""
    return bytes((_VERSION, code, 0, _IPV4)) + bytes(6)


@dataclass(frozen=True, slots=True)
class Send:
    """Bytes to send to the client."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Login:
    """A login to check. Bytes that are not UTF-8 become lone surrogates, which equal no configured password."""

    username: str
    password: Secret


@dataclass(frozen=True, slots=True)
class Connect:
    """A request to connect. `host` is an IP address, or the name from the client for the SSH server to resolve."""

    host: str
    port: int
    rest: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal. `why` completes "the client was refused: ...". `login` is True if the login is the cause."""

    data: bytes
    why: str
    login: bool = False


Event = Send | Login | Connect | Refused


class _State(Enum):
    GREETING = auto()
    LOGIN = auto()
    CHECKING = auto()
    REQUEST = auto()
    CONNECTED = auto()
    REFUSED = auto()


class Handshake:
    """The handshake of one client. `needs_auth` is True if the tunnel has users."""

    __slots__ = ("_buffer", "_needs_auth", "_state")

    def __init__(self, needs_auth: bool) -> None:
        self._needs_auth = needs_auth
        self._state = _State.GREETING
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray) -> list[Event]:
        """Process bytes from the client and return the resulting events.

        Bytes after `Refused` are dropped. Bytes after `Connect` belong to the destination: feeding them here raises
        RuntimeError.
        """
        if self._state is _State.CONNECTED:
            raise RuntimeError("the handshake is over: these bytes are for the destination")
        if self._state is _State.REFUSED:
            return []
        if self._state is _State.CHECKING and len(self._buffer) + len(data) > _EARLY_LIMIT:
            return [self._refuse(b"", "received more than 64 KiB before the login was answered")]
        self._buffer += data
        return self._advance()

    def accept_login(self, ok: bool, why: str = "wrong user name or password") -> list[Event]:
        """Answer a `Login` and return the resulting events: the client may have sent its request already.

        `why` is the reason if it is refused, and completes "the client was refused: ...".
        """
        if self._state is _State.REFUSED:
            return []  # refused meanwhile: the client sent too much data
        if self._state is not _State.CHECKING:
            raise RuntimeError("no login is pending")
        if not ok:
            return [self._refuse(_LOGIN_FAILED, why, login=True)]
        self._state = _State.REQUEST
        return [Send(_LOGIN_OK), *self._advance()]

    def _advance(self) -> list[Event]:
        events: list[Event] = []
        while (event := self._next()) is not None:
            events.append(event)
        return events

    def _next(self) -> Event | None:
        """Return the event of the next complete message, None if more bytes or an answer are needed."""
        match self._state:
            case _State.GREETING:
                return self._greeting()
            case _State.LOGIN:
                return self._login()
            case _State.REQUEST:
                return self._request()
            case _State.CHECKING | _State.CONNECTED | _State.REFUSED:
                return None

    def _greeting(self) -> Event | None:
        head = self._buffer
        if head and head[0] != _VERSION:
            return self._not_socks5()
        if len(head) < 2 or len(head) < 2 + head[1]:
            return None
        offered = self._take(2 + head[1])[2:]
        method = _PASSWORD if self._needs_auth else _NO_LOGIN
        if method in offered:
            self._state = _State.LOGIN if self._needs_auth else _State.REQUEST
            return Send(bytes((_VERSION, method)))
        why = "no user name and password offered: this tunnel requires a login"
        if not self._needs_auth:
            why = "the client requires a login, but this tunnel has no users: configure it without a user name"
        return self._refuse(bytes((_VERSION, _NO_METHOD)), why, login=self._needs_auth)

    def _not_socks5(self) -> Event | None:
        """Refuse a client whose first byte is not 5, and name its protocol if it can be recognised."""
        if self._buffer[0] == 4:
            return self._refuse(
                _SOCKS4_REJECTED, "received a SOCKS4 request: configure the client for SOCKS5 (socks5h://)"
            )
        if self._buffer[0] == 0x16:
            return self._refuse(
                b"", "received a TLS handshake: configure the client for plain SOCKS5 (socks5h://), not an HTTPS proxy"
            )
        start = bytes(self._buffer[: _LONGEST_HTTP_METHOD + 1])
        after = start.lstrip(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        if not after and len(start) <= _LONGEST_HTTP_METHOD:
            return None  # may still become an HTTP method
        if after.startswith(b" "):
            return self._refuse(
                _HTTP_REFUSAL,
                "received an HTTP request: configure the client for a SOCKS5 proxy (socks5h://), not an HTTP proxy",
            )
        return self._refuse(b"", f"not a SOCKS5 handshake: the first byte is {start[0]:#04x}, expected 0x05")

    def _login(self) -> Event | None:
        head = self._buffer
        if head and head[0] != _LOGIN_VERSION:
            why = f"login message has version {head[0]}: expected version 1 (RFC 1929)"
            return self._refuse(_LOGIN_FAILED, why, login=True)
        if len(head) < 2 or len(head) < 3 + head[1] or len(head) < 3 + head[1] + head[2 + head[1]]:
            return None
        name_end = 2 + head[1]
        message = self._take(name_end + 1 + head[name_end])
        username, password = message[2:name_end], message[name_end + 1 :]
        if not username or not password:
            return self._refuse(_LOGIN_FAILED, "empty user name or password", login=True)
        self._state = _State.CHECKING
        return Login(username.decode("utf-8", "surrogateescape"), Secret(password.decode("utf-8", "surrogateescape")))

    def _request(self) -> Event | None:
        head = self._buffer
        if head and head[0] != _VERSION:
            return self._fail(Reply.GENERAL_FAILURE, f"request has SOCKS version {head[0]}: expected version 5")
        if len(head) < 5:
            return None
        begin, length = 4, _address_length(head)
        if length is None:
            why = f"unknown address type {head[3]}: expected IPv4, IPv6 or a name"
            return self._fail(Reply.ADDRESS_TYPE_NOT_SUPPORTED, why)
        if len(head) < begin + length + 2:
            return None
        message = self._take(begin + length + 2)
        if message[1] != _CONNECT:
            command = {_BIND: "BIND", _UDP: "UDP ASSOCIATE"}.get(message[1], f"command {message[1]}")
            return self._fail(Reply.COMMAND_NOT_SUPPORTED, f"{command} is not supported: SSH carries only CONNECT")
        return self._connect(message[3], message[begin:-2], int.from_bytes(message[-2:]))

    def _connect(self, kind: int, address: bytes, port: int) -> Event:
        if kind == _NAME:
            host = address[1:].decode("latin-1")  # accepts any bytes; read_host refuses those that are not ASCII
        else:
            host = str(IPv4Address(address) if kind == _IPV4 else IPv6Address(address))
        destination = read_host(host)
        if destination is None:
            return self._fail(Reply.GENERAL_FAILURE, _bad_host(host))
        if not port:
            return self._fail(Reply.GENERAL_FAILURE, "destination port is 0: expected 1 to 65535")
        if not isinstance(destination, str):
            host = str(destination)
        self._state = _State.CONNECTED
        return Connect(host, port, self._take(len(self._buffer)))

    def _fail(self, code: Reply, why: str) -> Refused:
        return self._refuse(reply(code), why)

    def _refuse(self, data: bytes, why: str, *, login: bool = False) -> Refused:
        self._state = _State.REFUSED
        self._buffer.clear()
        return Refused(data, why, login)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def _address_length(head: bytearray) -> int | None:
    """Return the length of a request's address, with the length byte of a name; None for an unknown type."""
    return {_IPV4: 4, _IPV6: 16, _NAME: 1 + head[4]}.get(head[3])


def _bad_host(host: str) -> str:
    if not host:
        return "destination name is empty"
    if not host.isascii():
        return f"destination {host!a} is not ASCII: send international names in their xn-- form"
    return f"destination {host!r} is not valid: expected a host name or an IP address in full"
