"""The http probe: one GET over a new stream. It succeeds if the status is 200 to 399.

A redirect is a success and is not followed. 401 and 403 are failures: probe a path that needs no login. The probe
reads the response up to the end of its header section, at most 64 KiB including interim responses (1xx), and not the
body. It speaks plain HTTP only: for a TLS service, `type: tcp` checks that it accepts connections.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import assert_never
from urllib.parse import quote

from reconciler.core.interfaces import Opener, Stream
from reconciler.core.observed import Failure, Reason
from reconciler.core.spec import FarTcp, FarUnix, Health, NearTcp, NearUnix, Route, Socks
from reconciler.core.text.printable import printable
from reconciler.system.redaction import redact

_HEAD_LIMIT = 65536
_READ = 4096
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")  # a lone LF ends a line too (RFC 9112 section 2.2)
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: ([^\r\n]*))?\r?(?:\n|\Z)")
_HTTP1 = b"HTTP/1."
_TLS_RECORDS = (0x15, 0x16)  # an alert, a handshake
# The characters of a path and a query (RFC 3986), and % for what is encoded already. All others, CR and LF above all,
# are percent-encoded.
_PATH_SAFE = "/?:@!$&'()*+,;=~%-._[]"
_SHOWN = 60  # characters of the server's text
_IN_TLS, _USE_TCP = "failed: the server speaks TLS, this probe plain HTTP", "use `type: tcp`"
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


async def probe(opener: Opener, health: Health, route: Route) -> Failure | None:
    stream = await opener()
    if isinstance(stream, Failure):
        return Failure(Reason.PROBE, stream.what, stream.advice)
    request = f"GET {quote(health.path, safe=_PATH_SAFE)}"
    try:
        stream.write(_request(request, _host_header(route)))
        problem = await _check_response(stream)
    except OSError as error:
        problem = f"failed: {error.strerror or error}"
    finally:
        stream.close()
    return Failure(Reason.PROBE, f"{request} {problem}", _USE_TCP if problem == _IN_TLS else "") if problem else None


def _request(line: str, host: str) -> bytes:
    lines = (f"{line} HTTP/1.1", f"Host: {host}", "User-Agent: tunnel-reconciler", "Accept: */*", "Connection: close")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")


def _host_header(route: Route) -> str:
    match route:
        case FarTcp(host=host, port=port) | NearTcp(host=host, port=port):
            name = f"[{quote(host.partition('%')[0], safe=':')}]" if ":" in host else quote(host, safe="")
            return name if port == 80 else f"{name}:{port}"
        case FarUnix() | NearUnix() | Socks():
            return "localhost"  # no host name; some servers reject an empty Host header
        case _:
            assert_never(route)


async def _check_response(stream: Stream) -> str:
    """Return what is wrong with the response, as the rest of a sentence, or ""."""
    received = bytearray()
    begin = searched = 0  # start of the current header section; end of the part that was searched
    while len(received) < _HEAD_LIMIT:
        data = await stream.read(min(_READ, _HEAD_LIMIT - len(received)))
        if not data:
            return (
                "failed: connection closed within the response"
                if received
                else "failed: connection closed without a response"
            )
        received += data
        if received[: len(_HTTP1)] != _HTTP1[: len(received)]:
            return _not_http(received)
        while (end := _END_OF_HEAD.search(received, max(begin, searched - 3))) is not None:
            status = _STATUS_LINE.match(received, begin)
            if status is None:
                return _not_http(received[begin:])
            if not status[1].startswith(b"1"):
                return _check_status(int(status[1]), status[2] or b"")
            begin = searched = end.end()  # an interim response such as 103 Early Hints: the final one follows
        searched = len(received)
    return "failed: response header section longer than 64 KiB"


def _check_status(status: int, phrase: bytes) -> str:
    if 200 <= status <= 399:
        return ""
    return f"answered {status} {_shown(phrase) or _PHRASES.get(status, '')}".rstrip()


def _not_http(received: bytearray) -> str:
    if received[0] in _TLS_RECORDS:
        return _IN_TLS
    first_line = bytes(received).partition(b"\n")[0]
    return f"failed: expected an HTTP/1 response, got '{_shown(first_line)}'"


def _shown(data: bytes) -> str:
    """Return text from the server, shortened and escaped."""
    return printable(redact(data.decode("latin-1").strip())[:_SHOWN])
