"""Hostile requests on the HTTP endpoint and the control socket.

Each gets an answer that is no server error, nothing louder than debug is logged, and its connection is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from reconciler.report.event_stream import SUBSCRIBERS_MAX
from support.endpoints import Whole, whole
from support.wait import WITHIN, eventually, fd_count

_STATUS = re.compile(rb"HTTP/[12]\.[01] ([0-9]{3}) ")
_LONG = "a" * 300


def get(path: str, *headers: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """Return a request without a body, for a connection that closes after the response."""
    lines = [f"{method} {path} {version}", "Host: 127.0.0.1", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")


def post(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    """Return a request with a body."""
    return get(path, f"Content-Length: {len(body)}", *headers, method=method) + body


_PATHS = [
    f"/page/{_LONG}.js",
    f"/page/{'a' * 4000}.js",
    f"/page/{'%61' * 2000}.js",
    "/page/a%00.js",
    "/page/%ff%fe.js",
    "/page/%ed%b2%80.js",
    "/page/..%2f..%2fhttp.py",
    "/page/%2e%2e/http.py",
    "/page/..",
    "/page/%2e%2e",
    "/page/%2fetc%2fpasswd",
    "/page/.js",
    "/page/%",
    "/page/%zz.js",
    "/page/page.js%0d%0aX:y",
    "/page/page.js/",
    "/page/page.js?" + "a=b&" * 1000,
    "/page/\udcff.js",
    f"/readyz/{_LONG}/{_LONG}",
    "/readyz/%00/%ff",
    "/readyz/..%2f..%2f/x",
    "/readyz//",
    "/readyz/a/b/c",
    f"/{_LONG * 10}",
    f"/{'/' * 3000}",
    "//",
    "//evil.example/metrics",
    "/metrics/../livez",
    "/metrics%00",
    "/metrics;a=b",
    "/api/v1/status?" + "&" * 3000,
    "http://127.0.0.1/livez",
    "http://evil.example/livez",
    "http://[::1/livez",
    "http://[zz]/livez",
    "http://127.0.0.1:99999/livez",
    "http://127.0.0.1:x/livez",
    "https://127.0.0.1/livez",
    "ftp://x/livez",
    "livez",
    "*",
    "?",
    "#",
    "/#a",
    "/livez#a?b",
    "mailto:a@b",
    "127.0.0.1:80",
    "\\livez",
    "/livez\\..\\x",
    "/%u0000",
    "/a:b@c",
    "/\x7f",
    "/ü",
    "/\u202e",
]
_ACCEPTS = [
    "application/openmetrics-text; version=9.9.9",
    "application/openmetrics-text; version=2.0.0; q=1",
    "application/openmetrics-text; version=1.0.0",
    "application/openmetrics-text; version=1.0.1",
    "application/openmetrics-text; version=0.0.1",
    "application/openmetrics-text; version=",
    "application/openmetrics-text; version=abc",
    'application/openmetrics-text; version="1.0.0"',
    "application/openmetrics-text; version=1",
    "application/openmetrics-text; version=1.0.0.0.0",
    "application/openmetrics-text; version=-1.0.0",
    "application/openmetrics-text; version=1e9",
    "application/openmetrics-text; version=" + "1" * 5000,
    "application/openmetrics-text; version=1.0.0" + ".9" * 1000,
    "application/openmetrics-text; version=\u0661.0.0",
    "application/openmetrics-text; version=1.0.0; escaping=allow-utf-8",
    "application/openmetrics-text; version=1.0.0; escaping=values",
    "application/openmetrics-text; version=1.0.0; escaping=no-such",
    "application/openmetrics-text; escaping=dots; version=1.0.0",
    "application/openmetrics-text;q=abc",
    "application/openmetrics-text;q=0",
    "application/openmetrics-text;;;==;q",
    "application/openmetrics-text;version=1.0.0,text/plain;version=x",
    "APPLICATION/OpenMetrics-Text; VERSION=9",
    "text/plain; version=9.9.9",
    "text/plain; version=1.0.0; escaping=allow-utf-8",
    "text/plain; version=x.y",
    "text/plain; version=",
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited",
    "*/*;q=-1",
    ",,,,;;;;",
    ",".join(["application/openmetrics-text; version=0.0.1"] * 100),
    "\udcff\udcfe",
    "",
]
_METHODS = ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "BREW", "PRI", "A" * 300]
_HEADERS = [
    ("Host:",),
    ("Accept-Encoding: gzip, br, zstd, deflate, identity;q=0, *;q=abc",),
    ("Accept-Encoding: " + "gzip;q=" * 300,),
    ("Accept-Encoding: br",),
    ("Accept-Encoding: gzip;q=0", "Accept-Encoding: br"),
    ("Range: bytes=0-1",),
    ("Range: bytes=5-2",),
    ("Range: bytes=-1",),
    ("Range: bytes=-99999999999999999999",),
    ("Range: bytes=99999999999999999999-",),
    ("Range: bytes=abc",),
    ("Range: bytes=0-1,3-4",),
    ("Range: pages=1",),
    ("Range: bytes=0-1", "If-Range: x"),
    ("Range: bytes=0-1", "If-Range: Thu, 99 Foo 2026 10:00:00 GMT"),
    ("If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT",),
    ("If-Modified-Since: Thu, 99 Foo 99999 25:61:61 GMT",),
    ("If-Modified-Since: Thu, 01 Jan 0000 00:00:00 GMT",),
    ("If-Modified-Since: Fri, 31 Dec 9999 23:59:59 -9999",),
    ("If-Modified-Since: Fri, 31 Dec 99999999999999999999 23:59:59 GMT",),
    ("If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT",),
    ("If-None-Match: *",),
    ('If-None-Match: "a", W/"b", ' + '"c",' * 500,),
    ("If-None-Match: \udcff",),
    ('If-Match: "a"',),
    ("If-Match: garbage",),
    ("Expect: 100-continue",),
    ("Expect: 200-maybe",),
    ("Upgrade: websocket", "Connection: upgrade"),
    ("Upgrade: h2c", "Connection: upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk"),
    ("Transfer-Encoding: chunked", "Skip: x"),
    ("Transfer-Encoding: gzip",),
    ("Transfer-Encoding: chunked, chunked",),
    ("Transfer-Encoding: identity",),
    ("Content-Length: -1",),
    ("Content-Length: +5",),
    ("Content-Length: 99999999999999999999999",),
    ("Content-Length: 0", "Content-Length: 0"),
    ("Content-Length: 1_0",),
    ("Content-Encoding: gzip",),
    ("Content-Encoding: nonsense",),
    ("Content-Type: " + "a" * 3000,),
    ("Content-Type: application/json; charset=nonsense",),
    ("Cookie: " + "a=b; " * 500,),
    ("Cookie: \udcff=\x01; ;;;=",),
    ("Last-Event-ID: -1",),
    ("Last-Event-ID: \u0663",),
    ("Last-Event-ID: \u00b2",),
    ("Last-Event-ID: " + "9" * 15,),
    ("Last-Event-ID: " + "9" * 5000,),
    ("X-Forwarded-For: '; drop", "Forwarded: for=\x01"),
    ("Authorization: Basic \udcff",),
    (": empty name",),
    ("No colon",),
    (" folded: a",),
    ("A: b", " continued"),
    ("A\x00b: c",),
    ("A: b\x00c",),
    ("A : b",),
    ("A: b\rC: d",),
    *(
        (f"Host: {host}",)
        for host in ["a", "[", "]", "[::1", "a:b:c", ":", "127.0.0.1:" + "9" * 500, "\udcff", "a" * 4000]
    ),
    tuple(f"X-{n}: y" for n in range(120)),
    tuple(f"X-{n}: y" for n in range(2000)),
    ("X: " + "y" * 8000,),
    ("X" * 9000 + ": y",),
]
_RAW = {
    "nothing": b"",
    "line ends": b"\r\n\r\n\r\n",
    "bare line feeds": b"GET /livez HTTP/1.1\nHost: 127.0.0.1\nConnection: close\n\n",
    "HTTP/0.9": b"GET /livez\r\n",
    "HTTP/1.0": b"GET /livez HTTP/1.0\r\n\r\n",
    "HTTP/1.1 without Host": b"GET /api/v1/status HTTP/1.1\r\nConnection: close\r\n\r\n",
    "HTTP/1.2": get("/livez", version="HTTP/1.2"),
    "HTTP/2.0": get("/livez", version="HTTP/2.0"),
    "HTTP/9.99": get("/livez", version="HTTP/9.99"),
    "HTTP/a.b": get("/livez", version="HTTP/a.b"),
    "no version": b"GET /livez \r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "SOCKS": b"\x05\x01\x00\r\n\r\n",
    "zeros": bytes(4096) + b"\r\n\r\n",
    "high bytes": bytes(range(128, 256)) * 40 + b"\r\n\r\n",
    "tabs": b"GET\t/livez\tHTTP/1.1\r\nHost: a\r\n\r\n",
    "spaces": b"GET  /livez  HTTP/1.1\r\nHost: a\r\n\r\n",
    "a space first": b" GET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "a long line": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "a body on GET": post("/livez", b"x" * 5000, method="GET"),
    "a chunked body on GET": get("/livez", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    "wrong chunks": get("/livez", "Transfer-Encoding: chunked") + b"zz\r\nhello\r\n0\r\n\r\n",
    "a huge chunk": get("/livez", "Transfer-Encoding: chunked") + b"ffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "a negative chunk": get("/livez", "Transfer-Encoding: chunked") + b"-5\r\nhello\r\n0\r\n\r\n",
    "a long chunk extension": get("/livez", "Transfer-Encoding: chunked")
    + b"5;"
    + b"a" * 20_000
    + b"\r\nhello\r\n0\r\n\r\n",
    "long trailers": get("/livez", "Transfer-Encoding: chunked") + b"0\r\n" + b"A: b\r\n" * 3000 + b"\r\n",
    "not gzip": get("/livez", "Content-Encoding: gzip", "Content-Length: 3") + b"abc",
    "pipelined": b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n" * 200 + get("/livez"),
    "pipelined garbage": b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n" + b"\x00\xff garbage\r\n\r\n",
    "half a request": b"GET /livez HTTP/1.1\r\nHost: a\r\n",
    "half a body": b"POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
}


def _cases() -> Iterator[tuple[str, bytes]]:
    for path in _PATHS:
        yield f"path {path}", get(path)
    for accept in _ACCEPTS:
        yield f"accept {accept}", get("/metrics", f"Accept: {accept}")
    for method in _METHODS:
        for path in ("/livez", "/metrics", "/api/v1/status", "/page/page.js", "/no/such"):
            yield f"method {method} {path}", get(path, method=method)
    for headers in _HEADERS:
        for path in ("/livez", "/metrics", "/api/v1/status", "/page/page.js", "/"):
            yield f"headers {headers} {path}", get(path, *headers)
    yield from _RAW.items()


_NO_REQUEST = ("nothing", "line ends", "HTTP/0.9", "half a request")  # the server waits for the rest
_NEEDS_END = (*_NO_REQUEST, "half a body", "tabs", "spaces", "a space first")

_BODIES = {
    "nothing": b"",
    "no JSON": b"ids=a",
    "half": b'{"ids": ["a"',
    "null": b"null",
    "a list": b"[]",
    "a number": b"1",
    "not UTF-8": b'{"ids": ["\xff\xfe"]}',
    "zero bytes": b"\x00" * 100,
    "UTF-16": '{"ids": ["a"]}'.encode("utf-16"),
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"ids":' * 50_000,
    "deep and closed": b'{"ids":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "a long number": b'{"ids": ["a"], "seconds": ' + b"9" * 10_000 + b"}",
    "a long number elsewhere": b'{"a": ' + b"9" * 10_000 + b"}",
    "a huge exponent": b'{"ids": ["a"], "seconds": 1e999999}',
    "NaN": b'{"ids": ["a"], "seconds": NaN}',
    "negative": b'{"ids": ["a"], "seconds": -1}',
    "seconds as a list": b'{"ids": ["a"], "seconds": []}',
    "seconds as true": b'{"ids": ["*"], "seconds": true}',
    "seconds as text": b'{"ids": ["a"], "seconds": "\\u0661"}',
    "seconds too long": b'{"ids": ["a"], "seconds": 1e300}',
    "ids as text": b'{"ids": "a"}',
    "ids as numbers": b'{"ids": [1, null, {}]}',
    "ids as lists": b'{"ids": [["a"]]}',
    "no ids": b'{"ids": []}',
    "an empty id": b'{"ids": [""]}',
    "a zero in an id": b'{"ids": ["a\\u0000b"]}',
    "half a surrogate pair": b'{"ids": ["\\ud800"]}',
    "control characters": b'{"ids": ["\\u001b[31m\\u202e"]}',
    "half a glob": b'{"ids": ["[", "[!", "[]", "*[a-"]}',
    "a slow glob": b'{"ids": ["' + b"*a" * 5000 + b'"]}',
    "a long id": b'{"ids": ["' + b"a" * 100_000 + b'"]}',
    "many ids": b'{"ids": [' + b",".join([b'"a"'] * 20_000) + b"]}",
    "now as text": b'{"ids": ["no"], "now": "yes"}',
    "files as text": b'{"files": "a"}',
    "no files": b'{"files": []}',
    "files without texts": b'{"files": [{"name": "a"}]}',
    "files with numbers": b'{"files": [{"name": 1, "directory": 2, "text": 3}]}',
    "a file of surrogates": b'{"files": [{"name": "\\ud800", "directory": "\\udfff", "text": "\\ud800"}]}',
    "a file with zeros": b'{"files": [{"name": "a\\u0000b", "directory": "\\u0000", "text": "targets: {}"}]}',
    "a file with a long name": b'{"files": [{"name": "'
    + b"a" * 9000
    + b'", "directory": "/", "text": "targets: {}"}]}',
    "a file of nesting": b'{"files": [{"name": "a", "directory": "/", "text": "' + b"[" * 9000 + b'"}]}',
    "a key file with a long name": (
        b'{"files": [{"name": "a", "directory": "/", "text": "targets: {a: {host: b, user: c, privateKey: '
        + b"a" * 9000
        + b'}}"}]}'
    ),
    "the same key twice": b'{"ids": ["a"], "ids": {}}',
    "too large": b'{"ids": ["' + b"a" * (17 << 20) + b'"]}',
}
_ORDERS = ("restart", "pause", "resume", "reload", "plan")
_QUERIES = [
    "wait?timeout=abc",
    "wait?timeout=-1",
    "wait?timeout=nan",
    "wait?timeout=inf",
    "wait?timeout=1e999",
    "wait?timeout=" + "9" * 5000,
    "wait?timeout=1_0",
    "wait?timeout=0&ids=%00",
    "wait?timeout=0&ids=%ff",
    "wait?timeout=0&ids=[",
    "wait?timeout=0&ids=" + "a," * 3000,
    "wait?timeout=0&revision=%00%ff",
    "wait?timeout=0&timeout=abc",
    "diagnose",
    "diagnose?id=",
    "diagnose?id=%00",
    "diagnose?id=%ff%fe",
    "diagnose?id=[",
    "diagnose?id=" + "*" * 3000,
    "diagnose?id=%1b%5b31m%e2%80%ae",
    "events?follow=%00",
    "connections?%ff",
    "status?" + "&" * 3000,
]


def _orders() -> Iterator[tuple[str, bytes]]:
    for order in _ORDERS:
        for name, body in _BODIES.items():
            yield f"{order}: {name}", post(f"/api/v1/{order}", body, "Content-Type: application/json")
        yield (
            f"{order} as a form",
            post(f"/api/v1/{order}", b"ids=a", "Content-Type: application/x-www-form-urlencoded"),
        )
        yield (
            f"{order} as text",
            post(f"/api/v1/{order}", b'{"ids": ["a"]}', "Content-Type: text/plain; charset=nonsense"),
        )
        yield (
            f"{order} as UTF-7",
            post(f"/api/v1/{order}", b'{"ids": ["+AGE-"]}', "Content-Type: application/json; charset=utf-7"),
        )
        yield f"{order} as base64", post(f"/api/v1/{order}", b"{}", "Content-Type: application/json; charset=base64")
        yield f"{order} with odd type", post(f"/api/v1/{order}", b"{}", 'Content-Type: ;;;="; charset=\udcff')
        yield f"{order} as broken gzip", post(f"/api/v1/{order}", b"abc", "Content-Encoding: gzip")
        chunks = get(f"/api/v1/{order}", "Transfer-Encoding: chunked", method="POST")
        yield f"{order} in wrong chunks", chunks + b"zz\r\n"
        yield f"{order} by GET", get(f"/api/v1/{order}")
    for query in _QUERIES:
        yield query, get(f"/api/v1/{query}")


@contextlib.asynccontextmanager
async def connected(where: tuple[str, int] | str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    if isinstance(where, str):
        reader, writer = await asyncio.open_unix_connection(where)
    else:
        reader, writer = await asyncio.open_connection(*where)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def answer_to(where: tuple[str, int] | str, request: bytes, *, half_close: bool) -> bytes:
    """Return what the server sends until it closes. `half_close`: the client ends its side after the request."""
    got = b""
    async with connected(where) as (reader, writer), asyncio.timeout(WITHIN):
        with contextlib.suppress(ConnectionError):  # the server may refuse a request before it has read all of it
            writer.write(request)
            await writer.drain()
            if half_close:
                writer.write_eof()
        with contextlib.suppress(ConnectionError):
            while more := await reader.read(1 << 16):
                got += more
    return got


async def answers(
    where: tuple[str, int] | str, cases: Iterator[tuple[str, bytes]], *, half_close: bool = False
) -> dict[str, list[int]]:
    """Return the status codes of the responses to each request."""
    found: dict[str, list[int]] = {}
    some_at_once = asyncio.Semaphore(20)  # a late response delays no other request

    async def ask(name: str, request: bytes) -> None:
        async with some_at_once:
            try:
                answer = await answer_to(where, request, half_close=half_close or name in _NEEDS_END)
            except TimeoutError:
                raise AssertionError(f"no end of the answer to: {name}") from None
            found[name] = [int(status) for status in _STATUS.findall(answer)]

    async with asyncio.TaskGroup() as group:
        for name, request in cases:
            group.create_task(ask(name, request))
    return found


def is_loud(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.exc_info is not None


def places(it: Whole) -> dict[str, tuple[str, int] | str]:
    host, _, port = it.served.listen.rpartition(":")
    return {"TCP": (host, int(port)), "control": it.served.control}


@pytest.mark.parametrize("place", ["TCP", "control"])
@pytest.mark.parametrize("half_close", [False, True], ids=["", "half-closed"])
async def test_no_request_is_a_server_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str, half_close: bool
) -> None:
    async with whole(tmp_path, "targets: {}\n") as it:
        where = places(it)[place]
        found = await answers(where, _cases(), half_close=half_close)
        assert not {name: statuses for name, statuses in found.items() if any(status >= 500 for status in statuses)}
        unanswered = {name for name, statuses in found.items() if not statuses}
        assert unanswered <= set(_NO_REQUEST)
        assert not [record for record in caplog.records if is_loud(record)]
        assert found["pipelined"] == [200 if place == "TCP" else 404] * 201


@pytest.mark.parametrize("half_close", [False, True], ids=["", "half-closed"])
async def test_no_command_is_a_server_error(tmp_path: Path, caplog: pytest.LogCaptureFixture, half_close: bool) -> None:
    async with whole(tmp_path, "targets: {}\n") as it:
        found = await answers(it.served.control, _orders(), half_close=half_close)
        assert not {name: statuses for name, statuses in found.items() if not statuses or statuses[0] >= 500}
        assert not [record for record in caplog.records if is_loud(record)]
        assert await it.control.get("/api/v1/status")


async def test_connections_of_hostile_requests_are_closed(tmp_path: Path) -> None:
    async with whole(tmp_path, "targets: {}\n") as it:
        counts = []
        for _ in range(3):
            for place in places(it).values():
                await answers(place, (case for case in _cases() if case[0] not in _NEEDS_END))
            counts.append(fd_count())
        await eventually(lambda: fd_count() <= counts[0])


@pytest.mark.parametrize("place", ["TCP", "control"])
async def test_a_subscriber_that_half_closes_has_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    async with whole(tmp_path, "targets: {}\n") as it:
        where = places(it)[place]
        async with contextlib.AsyncExitStack() as stack:
            for early in [True, False] * SUBSCRIBERS_MAX:  # twice the limit: each subscriber must free its place
                reader, writer = await stack.enter_async_context(connected(where))
                writer.write(get("/api/v1/events?follow=1"))
                if not early:
                    assert b" 200 " in await asyncio.wait_for(reader.readline(), WITHIN)
                writer.write_eof()
                async with asyncio.timeout(WITHIN):
                    await reader.read()
        assert not [record for record in caplog.records if is_loud(record)]


async def test_a_subscriber_that_resets_causes_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with whole(tmp_path, "targets: {}\n") as it:
        host, _, port = it.served.listen.rpartition(":")
        for _ in range(2 * SUBSCRIBERS_MAX):
            with socket.create_connection((host, int(port))) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.sendall(get("/api/v1/events"))
            await asyncio.sleep(0)

        async def follows() -> bool:
            async with it.http.session.get("/api/v1/events") as response:
                return response.status == 200

        await eventually(follows)
        assert not [record for record in caplog.records if is_loud(record)]


async def test_a_half_closed_client_gets_its_response_within_the_idle_timeout(tmp_path: Path) -> None:
    """`wait` may take ten minutes. A client that has ended its side may be gone: it is kept for the idle timeout."""
    async with whole(tmp_path, "targets: {}\n") as it, connected(it.served.control) as (reader, writer):
        writer.write(get("/api/v1/wait?revision=none&timeout=600"))
        writer.write_eof()
        async with asyncio.timeout(2 * WITHIN):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        assert await answer_to(it.served.control, get("/api/v1/wait?timeout=0"), half_close=True)
