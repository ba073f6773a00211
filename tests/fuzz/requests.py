"""HTTP requests as bytes (valid, unusual and invalid), and the statuses of their responses."""

from __future__ import annotations

import re
import socket
import time
from itertools import pairwise
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fuzz.driver import mostly

_STATUS = re.compile(rb"(?:^|\n)HTTP/1\.[01] ([0-9]{3}) ")
_PATIENCE = 10.0  # timeout for the response to a whole request, in seconds
_QUIET = 0.02  # seconds without a byte after which a response counts as complete


class Sent(NamedTuple):
    """One client: the pieces that it sends, and how it disconnects."""

    data: bytes
    cuts: tuple[int, ...]
    half_closes: bool
    reads: bool


_ODD_METHODS = st.sampled_from(["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "PRI", "get", "G\0T", ""])
_VERSIONS = st.sampled_from(["HTTP/1.1"] * 6 + ["HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.1 x", ""])
_SEGMENTS = st.sampled_from(
    [
        "",
        ".",
        "..",
        "%2e%2e",
        "%2f",
        "%00",
        "%",
        "%ff",
        "%zz",
        "page",
        "style.css",
        "a" * 300,
        "é",
        "*",
        "~",
        ";x",
        "//",
    ]
)
_TEXT = st.text(max_size=8).map(lambda text: re.sub(r"[\r\n]", "", text))
_VALUES = st.one_of(
    st.sampled_from(
        ["0", "-1", "1e9", "99999999999999999999", "nan", "identity", "chunked", "gzip", "close", "bytes=0-"]
    ),
    _TEXT,
    st.just("x" * 9000),
)
_MEDIA = st.sampled_from(
    [
        *(
            "*/*",
            "text/plain",
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0",
            ";;,",
            "q",
        ),
        *("application/openmetrics-text; version=9.9", "application/openmetrics-text; version=abc", "text/html;q=x"),
        *("text/plain; version=0.0.4; escaping=allow-utf-8", "application/openmetrics-text;escaping=x", "\0"),
    ]
)
_HEADERS = st.one_of(
    _MEDIA.map(lambda value: f"Accept: {value}"),
    st.sampled_from(
        ["Host: 127.0.0.1", "Host: evil.example", "Host: [::1", "Host:", "Host: 127.0.0.1:99999", "Host: \x01"]
    ),
    st.builds(
        lambda name, value: f"{name}: {value}",
        st.sampled_from(
            [
                *(
                    "Connection",
                    "Content-Length",
                    "Transfer-Encoding",
                    "Expect",
                    "Range",
                    "If-Modified-Since",
                    "Upgrade",
                ),
                *(
                    "Last-Event-ID",
                    "If-None-Match",
                    "Accept-Encoding",
                    "Content-Type",
                    "Cookie",
                    "X-Forwarded-For",
                    "é",
                ),
            ]
        ),
        _VALUES,
    ),
    _TEXT,
    st.sampled_from([" folded", "a b: c", ": x", "A:" + "y" * 9000]),
)


def paths(known: list[str]) -> SearchStrategy[str]:
    """Return a strategy for known paths and variations of them."""
    some = st.sampled_from(known)
    made = st.lists(_SEGMENTS | st.sampled_from([part for path in known for part in path.split("/")]), max_size=4)
    return mostly(some, made.map(lambda parts: "/" + "/".join(parts)) | _TEXT)


def requests(
    known: list[str], bodies: SearchStrategy[bytes], queries: SearchStrategy[str], methods: list[str]
) -> SearchStrategy[Sent]:
    """Return a strategy for clients of a server with these paths and methods."""
    usual = st.sampled_from(methods)
    head = st.builds(
        lambda method, path, query, version, headers: "\r\n".join([f"{method} {path}{query} {version}", *headers]),
        mostly(usual, _ODD_METHODS),
        paths(known),
        st.just("") | queries,
        _VERSIONS,
        st.lists(_HEADERS, max_size=4),
    )
    proper = st.builds(_proper, usual, paths(known), st.just("") | queries, bodies, st.lists(_MEDIA, max_size=1))
    loose = st.builds(lambda text, body: text.encode("utf-8", "replace") + b"\r\n\r\n" + body, head, bodies)
    cut_off = (proper | loose).map(lambda data: data[: len(data) // 2])
    pipelined = st.lists(proper | loose, min_size=2, max_size=3).map(b"".join)
    data = mostly(proper, loose, pipelined, cut_off, st.binary(max_size=200))
    cuts = mostly(st.just(()), st.lists(st.integers(0, 3000), max_size=4).map(tuple))
    return st.builds(Sent, data, cuts, mostly(st.just(False), st.just(True)), mostly(st.just(True), st.just(False)))


def _proper(method: str, path: str, query: str, body: bytes, accept: list[str]) -> bytes:
    lines = [f"{method} {path}{query} HTTP/1.1", "Host: 127.0.0.1", *(f"Accept: {value}" for value in accept)]
    if method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + (body if method == "POST" else b"")


def request(head: str, body: bytes = b"", *, half_closes: bool = False) -> Sent:
    """Return one request. `|` separates the lines of `head`."""
    return Sent(head.replace("|", "\r\n").encode() + b"\r\n\r\n" + body, (), half_closes, reads=True)


def statuses(client: socket.socket, sent: Sent) -> list[int]:
    """Send the requests and return the statuses of the responses that the client reads."""
    client.settimeout(_PATIENCE)
    edges = sorted({0, len(sent.data), *(cut % (len(sent.data) + 1) for cut in sent.cuts)})
    answer = b""
    try:
        for begin, end in pairwise(edges):
            client.sendall(sent.data[begin:end])
        if sent.half_closes:
            client.shutdown(socket.SHUT_WR)
        if sent.reads:
            answer = _answer(client, whole=b"\r\n\r\n" in sent.data and not sent.half_closes)
    except OSError:
        pass  # the server may close the connection
    return [int(status) for status in _STATUS.findall(answer)]


def _answer(client: socket.socket, *, whole: bool) -> bytes:
    """Read until no byte comes for a while. After a whole request, wait for the head of the response."""
    data, deadline = b"", time.monotonic() + (0.3 if whole else _QUIET)
    client.settimeout(_QUIET)
    while True:
        try:
            more = client.recv(1 << 16)
        except TimeoutError:
            if b"\r\n\r\n" in data or time.monotonic() > deadline:
                return data
            continue
        if not more:
            return data
        data += more
