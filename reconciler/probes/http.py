"""The http probe: one GET over a fresh stream; well if the status is 200 to 399.

A redirect counts as well (the service answers; it is not followed), 401 and 403 do not: probe a path that needs no
login. The answer is read to the end of its head, at most 64 KiB with interim answers (1xx) included; the body is not.
Plain HTTP only: for a service that speaks TLS, `type: tcp` asks whether it accepts connections.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import assert_never
from urllib.parse import quote

from reconciler.core.interfaces import Opener, Stream
from reconciler.core.observed import Failure, Reason
from reconciler.core.printable import printable
from reconciler.core.spec import FarTcp, FarUnix, Health, NearTcp, NearUnix, Route, Socks
from reconciler.system.redaction import redact

_HEAD_LIMIT = 65536
_READ = 4096
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")  # a lone LF ends a line too (RFC 9112 section 2.2)
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: ([^\r\n]*))?\r?(?:\n|\Z)")
_HTTP1 = b"HTTP/1."
_TLS_RECORDS = (0x15, 0x16)  # an alert, a handshake
# What a path and a query are written with (RFC 3986), and % for what is encoded already. All else, CR and LF above
# all, is percent-encoded.
_PATH_SAFE = "/?:@!$&'()*+,;=~%-._[]"
_SHOWN = 60  # characters of what the far side said
_IN_TLS, _USE_TCP = "was answered in TLS", "use `type: tcp`; this probe is plain HTTP"
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


async def probe(opener: Opener, health: Health, route: Route) -> Failure | None:
    stream = await opener()
    if isinstance(stream, Failure):
        return Failure(Reason.PROBE, stream.what, stream.advice)
    asked = f"GET {quote(health.path, safe=_PATH_SAFE)}"
    try:
        stream.write(_request(asked, _host_header(route)))
        wrong = await _answer(stream)
    except OSError as error:
        wrong = f"was cut off: {error.strerror or error}"
    finally:
        stream.close()
    return Failure(Reason.PROBE, f"{asked} {wrong}", _USE_TCP if wrong == _IN_TLS else "") if wrong else None


def _request(asked: str, host: str) -> bytes:
    lines = (f"{asked} HTTP/1.1", f"Host: {host}", "User-Agent: tunnel-reconciler", "Accept: */*", "Connection: close")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")


def _host_header(route: Route) -> str:
    match route:
        case FarTcp(host=host, port=port) | NearTcp(host=host, port=port):
            name = f"[{quote(host.partition('%')[0], safe=':')}]" if ":" in host else quote(host, safe="")
            return name if port == 80 else f"{name}:{port}"
        case FarUnix() | NearUnix() | Socks():
            return "localhost"  # they have no name; some servers refuse an empty one
        case _:
            assert_never(route)


async def _answer(stream: Stream) -> str:
    """What is wrong with the answer, as the rest of a sentence; "" for nothing."""
    received = bytearray()
    begin = searched = 0  # where the head at hand begins, and up to where its end was looked for
    while len(received) < _HEAD_LIMIT:
        data = await stream.read(min(_READ, _HEAD_LIMIT - len(received)))
        if not data:
            return "was cut off in the middle of the answer" if received else "was closed without an answer"
        received += data
        if received[: len(_HTTP1)] != _HTTP1[: len(received)]:
            return _not_http(received)
        while (end := _END_OF_HEAD.search(received, max(begin, searched - 3))) is not None:
            status = _STATUS_LINE.match(received, begin)
            if status is None:
                return _not_http(received[begin:])
            if not status[1].startswith(b"1"):
                return _judged(int(status[1]), status[2] or b"")
            begin = searched = end.end()  # 103 Early Hints and its like: the answer itself follows
        searched = len(received)
    return "answered with a head of more than 64 KiB"


def _judged(status: int, phrase: bytes) -> str:
    if 200 <= status <= 399:
        return ""
    return f"answered {status} {_shown(phrase) or _PHRASES.get(status, '')}".rstrip()


def _not_http(received: bytearray) -> str:
    if received[0] in _TLS_RECORDS:
        return _IN_TLS
    first_line = bytes(received).partition(b"\n")[0]
    return f"was not answered in HTTP/1 but with '{_shown(first_line)}'"


def _shown(data: bytes) -> str:
    """The far side's text, cut and escaped."""
    return printable(redact(data.decode("latin-1").strip())[:_SHOWN])
