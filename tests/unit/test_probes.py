"""Health probes: what is a success, what a failure says, and that a bad response costs no memory and no traceback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.interfaces import Opener, Stream
from reconciler.core.observed import Failure, Reason
from reconciler.core.spec import FarTcp, FarUnix, Health, NearTcp, NearUnix, Route, Socks
from reconciler.probes import PROBES

WEB = FarTcp("prod", "web.internal", 8080)


def health(path: str = "/health") -> Health:
    return Health(type="http", path=path, interval=30, timeout=5, failure_threshold=3, reconnect=False)


class Recorded:
    """A stream that returns these pieces and records its use."""

    def __init__(self, *pieces: bytes, broken: OSError | None = None, silent: bool = False) -> None:
        self._pieces = list(pieces)
        self._broken = broken
        self._silent = silent
        self.written = b""
        self.read_bytes = 0
        self.closed = False

    async def read(self, limit: int) -> bytes:
        if self._silent:
            await asyncio.get_running_loop().create_future()
        if not self._pieces:
            if self._broken is not None:
                raise self._broken
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > limit:
            self._pieces.insert(0, piece[limit:])
        self.read_bytes += len(piece[:limit])
        return piece[:limit]

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True


def opener_of(opened: Stream | Failure) -> Opener:
    async def opener() -> Stream | Failure:
        return opened

    return opener


async def failure_message(*pieces: bytes, path: str = "/health") -> str:
    """Return the failure message of the http probe for this response, "" for success."""
    stream = Recorded(*pieces)
    failure = await PROBES["http"](opener_of(stream), health(path), WEB)
    assert stream.closed
    assert failure is None or failure.reason is Reason.PROBE
    return "" if failure is None else failure.what


# --- a real server, over real sockets --------------------------------------------------------------------------


class SocketStream:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, limit: int) -> bytes:
        return await self._reader.read(limit)

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def serving(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[Opener]:
    """Run a server with this handler, and yield an opener that connects to it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()

    async def opener() -> Stream:
        return SocketStream(*await asyncio.open_connection(host, port))

    async with server:
        yield opener


async def test_status_200_is_a_success_and_the_request_is_complete() -> None:
    asked = b""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()

    async with serving(answer) as opener:
        assert await PROBES["http"](opener, health("/health?deep=1"), WEB) is None
    assert asked.decode().splitlines() == [
        "GET /health?deep=1 HTTP/1.1",
        "Host: web.internal:8080",
        "User-Agent: tunnel-reconciler",
        "Accept: */*",
        "Connection: close",
        "",
    ]


async def test_a_reset_connection_is_a_failure_with_a_message() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with serving(answer) as opener:
        failure = await PROBES["http"](opener, health(), WEB)
    assert failure is not None
    assert failure.reason is Reason.PROBE
    assert failure.message.startswith("GET /health failed: ")


async def test_a_tcp_probe_succeeds_once_the_destination_accepts() -> None:
    async def answer(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(answer) as opener:
        assert await PROBES["tcp"](opener, health(), WEB) is None


# --- statuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["200 OK", "204 No Content", "301 Moved Permanently", "399", "200"])
async def test_a_status_from_200_to_399_is_a_success(line: str) -> None:
    assert await failure_message(f"HTTP/1.1 {line}\r\n\r\n".encode()) == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("503 Service Unavailable", "GET /health answered 503 Service Unavailable"),
        ("503", "GET /health answered 503 Service Unavailable"),
        ("503 ", "GET /health answered 503 Service Unavailable"),
        ("404 Nothing Here", "GET /health answered 404 Nothing Here"),
        ("401 Unauthorized", "GET /health answered 401 Unauthorized"),
        ("599", "GET /health answered 599"),
        ("400 \x1b[31mred", "GET /health answered 400 \\x1b[31mred"),
        ("500 " + "x" * 200, "GET /health answered 500 " + "x" * 60),
    ],
)
async def test_any_other_status_is_in_the_failure_message(line: str, expected: str) -> None:
    assert await failure_message(f"HTTP/1.1 {line}\r\n\r\n".encode()) == expected


async def test_http_1_0_and_bare_line_feeds_are_accepted() -> None:
    assert await failure_message(b"HTTP/1.0 200 OK\nServer: old\n\nbody") == ""


async def test_interim_responses_are_skipped() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    assert await failure_message(hints + hints + b"HTTP/1.1 500 Oops\r\n\r\n") == "GET /health answered 500 Oops"
    assert await failure_message(hints, b"HTTP/1.1 200 OK\r\n\r\n") == ""


@given(st.lists(st.integers(0, 90), max_size=6))
def test_a_response_may_arrive_in_any_pieces(cuts: list[int]) -> None:
    answer = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 418 I'm a Teapot\r\nA: b\r\n\r\nbody"
    edges = [0, *sorted(cuts), len(answer)]
    pieces = [answer[a:b] for a, b in pairwise(edges) if answer[a:b]]
    assert asyncio.run(failure_message(*pieces)) == "GET /health answered 418 I'm a Teapot"


# --- invalid responses -----------------------------------------------------------------------------------------


async def test_no_response_is_a_failure() -> None:
    assert await failure_message() == "GET /health failed: connection closed without a response"


async def test_half_a_response_is_a_failure() -> None:
    assert (
        await failure_message(b"HTTP/1.1 200 OK\r\nServer:")
        == "GET /health failed: connection closed within the response"
    )


async def test_for_a_tls_service_the_failure_suggests_the_tcp_probe() -> None:
    failure = await PROBES["http"](opener_of(Recorded(b"\x15\x03\x01\x00\x02\x02\x46")), health(), WEB)
    assert failure is not None
    assert failure.message == "GET /health failed: the server speaks TLS, this probe plain HTTP: use `type: tcp`"


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/2.0 200 OK\r\n\r\n", b"ok\x1b[2J", b"HTTP"])
async def test_another_protocol_is_shown_without_control_characters(answer: bytes) -> None:
    message = await failure_message(answer)
    assert message.startswith("GET /health failed: ")
    assert message.isprintable()


async def test_a_status_line_without_a_status_is_not_http() -> None:
    assert "expected an HTTP/1 response" in await failure_message(b"HTTP/1.1 OK\r\n\r\n")


async def test_an_endless_header_section_fails_after_64_kib() -> None:
    stream = Recorded(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000)
    failure = await PROBES["http"](opener_of(stream), health(), WEB)
    assert failure == Failure(Reason.PROBE, "GET /health failed: response header section longer than 64 KiB")
    assert stream.read_bytes == 65536


async def test_endless_interim_responses_fail_after_64_kib() -> None:
    stream = Recorded(b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000)
    assert await PROBES["http"](opener_of(stream), health(), WEB) is not None
    assert stream.read_bytes == 65536


async def test_the_body_is_not_read() -> None:
    stream = Recorded(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", broken=OSError("never read"))
    assert await PROBES["http"](opener_of(stream), health(), WEB) is None


async def test_a_stream_error_is_a_failure_and_closes_the_stream() -> None:
    stream = Recorded(b"HTTP/1.1 200", broken=ConnectionResetError(104, "Connection reset by peer"))
    failure = await PROBES["http"](opener_of(stream), health(), WEB)
    assert failure == Failure(Reason.PROBE, "GET /health failed: Connection reset by peer")
    assert stream.closed


async def test_a_cancelled_probe_closes_its_stream() -> None:
    stream = Recorded(silent=True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await PROBES["http"](opener_of(stream), health(), WEB)
    assert stream.closed


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=8))
def test_any_response_gives_one_printable_line(pieces: list[bytes]) -> None:
    assert asyncio.run(failure_message(*pieces)).isprintable()


# --- requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "host"),
    [
        (FarTcp("prod", "web.internal", 8080), "web.internal:8080"),
        (FarTcp("prod", "web.internal", 80), "web.internal"),
        (FarTcp("prod", "2001:db8::1", 8080), "[2001:db8::1]:8080"),
        (NearTcp("fe80::1%eth0", 80), "[fe80::1]"),
        (NearTcp("localhost", 3000), "localhost:3000"),
        (FarUnix("prod", "/run/web.sock"), "localhost"),
        (NearUnix("/run/web.sock"), "localhost"),
        (Socks("prod"), "localhost"),
    ],
)
async def test_the_host_header_names_the_destination(route: Route, host: str) -> None:
    stream = Recorded(b"HTTP/1.1 200 OK\r\n\r\n")
    await PROBES["http"](opener_of(stream), health(), route)
    assert f"\r\nHost: {host}\r\n" in stream.written.decode()


async def test_no_setting_can_add_a_request_header() -> None:
    stream = Recorded(b"HTTP/1.1 200 OK\r\n\r\n")
    route = FarTcp("prod", "web\r\nX-Evil: 1", 8080)
    await PROBES["http"](opener_of(stream), health("/ü HTTP/1.1\r\nX-Evil: 1\r\n"), route)
    assert b"\r\nX-Evil" not in stream.written
    assert stream.written.startswith(b"GET /%C3%BC%20HTTP/1.1%0D%0A")


async def test_an_encoded_path_is_not_encoded_again() -> None:
    stream = Recorded(b"HTTP/1.1 200 OK\r\n\r\n")
    await PROBES["http"](opener_of(stream), health("/a%20b?x=1&y=%2F"), WEB)
    assert stream.written.startswith(b"GET /a%20b?x=1&y=%2F HTTP/1.1\r\n")


# --- the registry ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tcp", "http"])
async def test_a_stream_that_fails_to_open_is_a_probe_failure_with_its_message(kind: str) -> None:
    refused = Failure(Reason.DESTINATION, "web.internal:8080 refused the connection")
    assert await PROBES[kind](opener_of(refused), health(), WEB) == Failure(Reason.PROBE, refused.what, refused.advice)


async def test_a_tcp_probe_closes_its_stream_and_sends_nothing() -> None:
    stream = Recorded()
    assert await PROBES["tcp"](opener_of(stream), health(), WEB) is None
    assert stream.closed
    assert stream.written == b""


def test_every_module_of_the_package_is_a_probe_type() -> None:
    assert set(PROBES) == {"http", "tcp"}
