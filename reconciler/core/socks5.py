"""The server's half of a SOCKS5 handshake: bytes in, events and bytes out. No IO, no secrets, no clock.

Owns RFC 1928 (CONNECT only) and RFC 1929 (user name and password). In: what the client sent, cut anywhere. Out:
  Send(data)                to the client, and go on
  Login(username, password) check it, then `accept_login(ok)`; the events that it returns come next
  Connect(host, port, rest) stop reading, dial, answer with `reply(code)`; `rest` is the client's first data
  Refused(data, why)        send `data` if any, close; nothing follows

    GREETING --needs_auth--> LOGIN --Login--> CHECKING --accept_login(True)--> REQUEST --Connect--> CONNECTED
        `---------------------------otherwise----------------------------------^        (Refused from any: REFUSED)

No bytes make it raise; it keeps at most one incomplete message (513 bytes), or 64 KiB sent while a login is checked.
The caller limits the time.

Decided here, where the RFCs leave room:
- With users, only method 02 will do; without, only 00. A client that insists on logging in where there are no users
  is refused (as `ssh -D` does): to take any password would look as if it were checked.
- An empty user name or password is a failed login (RFC 1929 gives both at least one byte).
- Names are ASCII, at most 253 characters, of letters, digits, `-`, `_` and dots. An international name comes in its
  xn-- form: in another encoding, the rules and the far resolver could read two different names. An address sent as a
  name is passed on as an address, IPv4-mapped IPv6 as IPv4; a number that resolvers take for one (`127.1`) is refused.
- A request is read to its end before it is refused, so that the close does not overtake the reply.
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
    """How a request ended (RFC 1928 section 6)."""

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
    """The final reply. Its bound address is 0.0.0.0:0: the SSH server does not tell which one it dialled from."""
    return bytes((_VERSION, code, 0, _IPV4)) + bytes(6)


@dataclass(frozen=True, slots=True)
class Send:
    data: bytes


@dataclass(frozen=True, slots=True)
class Login:
    """Bytes that are not UTF-8 become lone surrogates, and equal no password of a file."""

    username: str
    password: Secret


@dataclass(frozen=True, slots=True)
class Connect:
    """An IP address in its usual form or a name as the client wrote it, to be resolved on the far side."""

    host: str
    port: int
    rest: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """`why` completes "the client was refused: ...". `login`: it did not log in, or not well."""

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
    """One client's handshake. `needs_auth`: the tunnel has users."""

    __slots__ = ("_buffer", "_needs_auth", "_state")

    def __init__(self, needs_auth: bool) -> None:
        self._needs_auth = needs_auth
        self._state = _State.GREETING
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Event]:
        """What follows from these bytes.

        After `Refused` they are dropped. After `Connect` they belong to the destination: to feed them here would lose
        them, and is a mistake of the caller (RuntimeError).
        """
        if self._state is _State.CONNECTED:
            raise RuntimeError("the handshake is over: these bytes are for the destination")
        if self._state is _State.REFUSED:
            return []
        if self._state is _State.CHECKING and len(self._buffer) + len(data) > _EARLY_LIMIT:
            return [self._refuse(b"", "it sent more than 64 KiB before its login was answered")]
        self._buffer += data
        return self._advance()

    @property
    def wanted(self) -> int:
        """How many more bytes the present message needs, as far as that is known; 0 while none is expected.

        A caller that never reads more than this reads nothing that belongs to the destination.
        """
        if self._state in (_State.CHECKING, _State.CONNECTED, _State.REFUSED):
            return 0
        return self._whole() - len(self._buffer)

    def _whole(self) -> int:
        """Bytes of the message that the buffer begins with, as far as that is known."""
        head = self._buffer
        match self._state:
            case _State.GREETING if head and head[0] != _VERSION:
                return _LONGEST_HTTP_METHOD + 1
            case _State.GREETING:
                return 2 if len(head) < 2 else 2 + head[1]
            case _State.LOGIN:
                if len(head) < 2:
                    return 2
                name_end = 2 + head[1]
                return name_end + 1 + (head[name_end] if len(head) > name_end else 0)
            case _:
                return 5 if len(head) < 5 else 4 + (_address_length(head) or 0) + 2

    def accept_login(self, ok: bool, why: str = "wrong user name or password") -> list[Event]:
        """Answer a `Login`; `why`, if it is refused, completes "the client was refused: ...".

        The answer comes back as events: a client may have sent its request already.
        """
        if self._state is _State.REFUSED:
            return []  # it sent too much meanwhile
        if self._state is not _State.CHECKING:
            raise RuntimeError("no login waits for an answer")
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
        """The event of the next complete message; None: more bytes, or an answer, are needed."""
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
        why = "it offered no login by user name and password, and this tunnel has users"
        if not self._needs_auth:
            why = "it insists on a login, and this tunnel has no users"
        return self._refuse(bytes((_VERSION, _NO_METHOD)), why, login=self._needs_auth)

    def _not_socks5(self) -> Event | None:
        """The first byte is not 5: name what the client speaks, where it can be known."""
        if self._buffer[0] == 4:
            return self._refuse(_SOCKS4_REJECTED, "it speaks SOCKS version 4: set it to SOCKS5 (socks5h://)")
        if self._buffer[0] == 0x16:
            return self._refuse(b"", "it speaks TLS: set it to plain SOCKS5 (socks5h://), not to an HTTPS proxy")
        start = bytes(self._buffer[: _LONGEST_HTTP_METHOD + 1])
        after = start.lstrip(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        if not after and len(start) <= _LONGEST_HTTP_METHOD:
            return None  # it may become the name of an HTTP method yet
        if after.startswith(b" "):
            return self._refuse(
                _HTTP_REFUSAL, "it speaks HTTP: set it to a SOCKS5 proxy (socks5h://), not to an HTTP one"
            )
        return self._refuse(b"", f"it does not speak SOCKS5: its first byte is {start[0]:#04x}, not 0x05")

    def _login(self) -> Event | None:
        head = self._buffer
        if head and head[0] != _LOGIN_VERSION:
            why = f"its login is not RFC 1929: version {head[0]} instead of 1"
            return self._refuse(_LOGIN_FAILED, why, login=True)
        if len(head) < 2 or len(head) < 3 + head[1] or len(head) < 3 + head[1] + head[2 + head[1]]:
            return None
        name_end = 2 + head[1]
        message = self._take(name_end + 1 + head[name_end])
        username, password = message[2:name_end], message[name_end + 1 :]
        if not username or not password:
            return self._refuse(_LOGIN_FAILED, "its user name or password is empty", login=True)
        self._state = _State.CHECKING
        return Login(username.decode("utf-8", "surrogateescape"), Secret(password.decode("utf-8", "surrogateescape")))

    def _request(self) -> Event | None:
        head = self._buffer
        if head and head[0] != _VERSION:
            return self._fail(Reply.GENERAL_FAILURE, f"its request has version {head[0]} instead of 5")
        if len(head) < 5:
            return None
        begin, length = 4, _address_length(head)
        if length is None:
            why = f"unknown address type {head[3]}: only IPv4, IPv6 and names"
            return self._fail(Reply.ADDRESS_TYPE_NOT_SUPPORTED, why)
        if len(head) < begin + length + 2:
            return None
        message = self._take(begin + length + 2)
        if message[1] != _CONNECT:
            command = {_BIND: "BIND", _UDP: "UDP ASSOCIATE"}.get(message[1], f"command {message[1]}")
            return self._fail(Reply.COMMAND_NOT_SUPPORTED, f"it asks for {command}: only CONNECT goes through SSH")
        return self._connect(message[3], message[begin:-2], int.from_bytes(message[-2:]))

    def _connect(self, kind: int, address: bytes, port: int) -> Event:
        if kind == _NAME:
            host = address[1:].decode("latin-1")  # any bytes at all; what is not ASCII is refused below
        else:
            host = str(IPv4Address(address) if kind == _IPV4 else IPv6Address(address))
        destination = read_host(host)
        if destination is None:
            return self._fail(Reply.GENERAL_FAILURE, _bad_host(host))
        if not port:
            return self._fail(Reply.GENERAL_FAILURE, "it asks for port 0")
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
    """Bytes of a request's address, the length of a name included; None: of an unknown type."""
    return {_IPV4: 4, _IPV6: 16, _NAME: 1 + head[4]}.get(head[3])


def _bad_host(host: str) -> str:
    if not host:
        return "it asks for an empty name"
    if not host.isascii():
        return f"it asks for {host!a}, which is not ASCII: international names come in their xn-- form"
    return f"it asks for {host!r}, which is neither a name nor an address in its usual form"
