"""Real services on loopback as destinations: echo, checksummed transfers with half-close, silence, refusal."""

import asyncio
import hashlib
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from support.wait import eventually, free_port

MIB = 1 << 20
_CHUNK = 256 << 10


class TcpService:
    """A listener (TCP, or a unix socket with `path`) that serves each connection in a task. `stop` ends the tasks."""

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, path: Path | None = None) -> None:
        self.host, self.port, self.path = host, port, path
        self.total = 0  # connections ever accepted
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError

    @property
    def connections(self) -> int:
        """The number of live connections."""
        return len(self._tasks)

    @property
    def address(self) -> str:
        return str(self.path or f"{self.host}:{self.port}")

    async def start(self) -> None:
        if self.path is not None:
            self._server = await asyncio.start_unix_server(self._accepted, self.path, limit=MIB, backlog=4096)
            return
        # The port is kept over stop and start, so it is not an ephemeral one, which an outgoing connection might take.
        self.port = self.port or free_port(self.host)
        self._server = await asyncio.start_server(self._accepted, self.host, self.port, limit=MIB, backlog=4096)

    @property
    def listening(self) -> bool:
        return self._server is not None

    def stop_listening(self) -> None:
        """Refuse new connections. Live ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        self.stop_listening()
        await self.drop_connections()

    async def drop_connections(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.total += 1
        task = asyncio.create_task(self.serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._finished(done, writer))

    def _finished(self, task: asyncio.Task[None], writer: asyncio.StreamWriter) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error:
            writer.transport.abort()
        else:
            writer.close()
        if error and not isinstance(error, ConnectionError):
            raise error

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class EchoServer(TcpService):
    """Sends back all received data, then EOF after the client's EOF."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()


class GreetingServer(TcpService):
    """Sends its greeting and closes, so that a test knows which server a tunnel leads to."""

    def __init__(self, greeting: str, *, host: str = "127.0.0.1", port: int = 0, path: Path | None = None) -> None:
        super().__init__(host=host, port=port, path=path)
        self.greeting = greeting

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.greeting.encode())
        writer.write_eof()
        await reader.read()


class SilentService(TcpService):
    """Accepts and neither reads nor sends a byte."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()
        await asyncio.Event().wait()


class Sink(TcpService):
    """Reads and discards all data, and counts the bytes."""

    swallowed = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            self.swallowed += len(data)


class RefusingPort:
    """A port that is bound without a listener: connecting is refused, and no other process can bind it."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host, self._socket = host, socket.socket()
        self.port = port or free_port(host)
        self._socket.bind((host, self.port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class SinkSource(TcpService):
    """Makes checksummed transfers. The client's first line is the request.

    `upload`: read to EOF, answer with the SHA-256 in hex, close (the client half-closes first).
    `download N`: send N bytes, half-close, read to EOF (the server half-closes first).
    `after-eof N`: read to EOF, then send N bytes and close.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, path: Path | None = None) -> None:
        super().__init__(host=host, port=port, path=path)
        self.received: list[str] = []  # SHA-256 of the data of each finished client

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        match (await reader.readline()).decode().split():
            case ["upload"]:
                self.received.append(await sha_of(reader))
                writer.write(self.received[-1].encode())
            case ["download", size]:
                await send_pattern(writer, int(size))
                writer.write_eof()
                self.received.append(await sha_of(reader))
            case ["after-eof", size]:
                self.received.append(await sha_of(reader))
                await send_pattern(writer, int(size))
            case other:
                raise AssertionError(f"unknown request {other}")
        await writer.drain()


def pattern(size: int) -> Iterator[bytes]:
    """Yield `size` bytes without repetition: a random block, preceded by its position each time."""
    block = random.Random(0).randbytes(MIB - 8)
    for position in range(0, size, MIB):
        yield (position.to_bytes(8) + block)[: size - position]


async def send_pattern(writer: asyncio.StreamWriter, size: int) -> str:
    """Send the pattern and return its SHA-256."""
    digest = hashlib.sha256()
    for block in pattern(size):
        digest.update(block)
        writer.write(block)
        await writer.drain()
    return digest.hexdigest()


def pattern_sha(size: int) -> str:
    digest = hashlib.sha256()
    for block in pattern(size):
        digest.update(block)
    return digest.hexdigest()


async def sha_of(reader: asyncio.StreamReader) -> str:
    """Return the SHA-256 of all data up to EOF."""
    digest = hashlib.sha256()
    while data := await reader.read(_CHUNK):
        digest.update(data)
    return digest.hexdigest()


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
# Connects a client to a host and port: by TCP, through a SOCKS proxy, or to a unix socket.
Opening = Callable[[str, int], Awaitable[Streams]]


async def by_tcp(host: str, port: int) -> Streams:
    return await asyncio.open_connection(host, port, limit=MIB)


def by_unix(path: Path) -> Opening:
    """Return an opening that connects to this unix socket and ignores host and port."""

    async def opening(_host: str, _port: int) -> Streams:
        sock = socket.socket(socket.AF_UNIX)
        try:
            await _connect_unix(sock, path)
            return await asyncio.open_unix_connection(sock=sock, limit=MIB)
        except BaseException:
            sock.close()
            raise

    return opening


async def _connect_unix(sock: socket.socket, path: Path) -> None:
    """Connect, and retry while the queue is full. asyncio takes its EAGAIN for a connection in progress."""
    sock.setblocking(False)
    while True:
        try:
            return sock.connect(str(path))
        except BlockingIOError:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def connected(host: str, port: int, opening: Opening = by_tcp) -> AsyncIterator[Streams]:
    """Yield a client's connection. It is closed at the end, and reset if the block raises."""
    reader, writer = await opening(host, port)
    try:
        yield reader, writer
    except BaseException:
        writer.transport.abort()
        raise
    writer.close()


async def exchange(host: str, port: int, message: bytes = b"ping", opening: Opening = by_tcp) -> bytes:
    """Send a message, half-close, and return the whole answer of an echo service."""
    async with connected(host, port, opening) as (reader, writer):
        writer.write(message)
        try:
            writer.write_eof()
        except OSError as error:  # already reset: shutdown(2) raises ENOTCONN
            raise ConnectionResetError(error.errno, error.strerror) from error
        return await reader.read()


async def refuses(port: int) -> bool:
    """Return True if the loopback port has no listener."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False  # the listener closed during the connect
    writer.close()
    return False


async def upload(host: str, port: int, size: int, opening: Opening = by_tcp) -> tuple[str, str]:
    """Send `size` bytes to a SinkSource. Return the SHA-256 of the sent and of the received data."""
    async with connected(host, port, opening) as (reader, writer):
        writer.write(b"upload\n")
        sent = await send_pattern(writer, size)
        writer.write_eof()
        return sent, (await reader.read()).decode()


async def download(host: str, port: int, size: int, opening: Opening = by_tcp) -> tuple[str, str]:
    """Get `size` bytes from a SinkSource. Return the SHA-256 of the sent and of the received data."""
    async with connected(host, port, opening) as (reader, writer):
        writer.write(f"download {size}\n".encode())
        seen = await sha_of(reader)
        writer.write_eof()
        return pattern_sha(size), seen


async def half_close_client_first(host: str, port: int, size: int = MIB, opening: Opening = by_tcp) -> tuple[str, str]:
    """Half-close, then get `size` bytes. Return the SHA-256 of the sent and of the received data."""
    async with connected(host, port, opening) as (reader, writer):
        writer.write(f"after-eof {size}\n".encode())
        writer.write_eof()
        return pattern_sha(size), await sha_of(reader)


async def half_close_server_first(host: str, port: int, size: int = MIB, opening: Opening = by_tcp) -> str:
    """Wait for the server's EOF, then send `size` bytes. Return their SHA-256, to look for in `received`."""
    async with connected(host, port, opening) as (reader, writer):
        writer.write(b"download 0\n")
        assert await reader.read() == b""
        sent = await send_pattern(writer, size)
        writer.write_eof()
        return sent


async def check_transfers(service: SinkSource, port: int, size: int, opening: Opening = by_tcp) -> None:
    """Move `size` bytes up and down, and some after a half-close of each side, at once, and compare the checksums.

    `port` and `opening` lead to the service.
    """
    (up_sent, up_came), (down_sent, down_came), (late_sent, late_came), last_sent = await asyncio.gather(
        upload("127.0.0.1", port, size, opening),
        download("127.0.0.1", port, size, opening),
        half_close_client_first("127.0.0.1", port, opening=opening),
        half_close_server_first("127.0.0.1", port, MIB + port, opening),  # no other data has this checksum
    )
    assert (up_sent, down_sent, late_sent) == (up_came, down_came, late_came)
    await eventually(lambda: last_sent in service.received, message="the data after the half-close of the service")
