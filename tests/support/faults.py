"""Servers that misbehave below SSH, and a TCP proxy that simulates network faults."""

import asyncio
import socket
import struct
from typing import Self

from support.services import TcpService
from support.wait import free_port

_CHUNK = 64 << 10


def reset(transport: asyncio.WriteTransport) -> None:
    """Close with RST instead of FIN."""
    sock = transport.get_extra_info("socket")
    if sock.fileno() != -1:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class SilentListener(TcpService):
    """Accepts and reads, and never sends a byte, not even its SSH version."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(_CHUNK):
            pass


class SlowBanner(TcpService):
    """Sends its SSH version one byte at a time, then nothing more."""

    def __init__(
        self, banner: bytes = b"SSH-2.0-OpenSSH_9.2 slow\r\n", *, interval: float = 1.0, port: int = 0
    ) -> None:
        super().__init__(port=port)
        self.banner, self.interval = banner, interval

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in self.banner:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(self.interval)
        while await reader.read(_CHUNK):
            pass


class CloseOnAccept(TcpService):
    """Closes every connection before the first byte, as sshd does above MaxStartups. With RST if `resets`."""

    def __init__(self, *, resets: bool = False, port: int = 0) -> None:
        super().__init__(port=port)
        self.resets = resets

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.resets:
            reset(writer.transport)


class Blackhole:
    """An address where connecting hangs: no answer, no refusal.

    Linux drops a SYN for a listener with a full accept queue. This listener has the smallest backlog and never accepts,
    and the connections made here fill its queue. The client's kernel then repeats its SYN for minutes. Another loopback
    address (127.0.0.2) gives a blackhole on the port of a server that works at 127.0.0.1.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host = host
        listener = socket.create_server((host, port or free_port(host)), backlog=0)
        self.port: int = listener.getsockname()[1]
        self._sockets = [listener]
        # A busy machine may answer late: the queue is full when two connects in a row time out.
        while self._fits_one_more() or self._fits_one_more():
            pass

    def _fits_one_more(self) -> bool:
        client = socket.socket()
        self._sockets.append(client)
        client.settimeout(0.1)
        try:
            client.connect((self.host, self.port))
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TcpProxy(TcpService):
    """A TCP proxy between a client and a server. Its port stays the same.

    A frozen proxy is a silent peer, not a cut cable: the kernel still acknowledges data while the proxy's buffers have
    space. `latency` is in seconds, one way. `rate` is in bytes per second, for each connection and direction.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency: float = 0.0,
        rate: float = 0.0,
    ) -> None:
        # Not an ephemeral port: it must still be free after `refuse`.
        super().__init__(host=host, port=port or free_port(host))
        self.target_host, self.target_port = target_host, target_port
        self.latency, self.rate = latency, rate
        self._relays = asyncio.Event()
        self._relays.set()
        self._writers: set[asyncio.StreamWriter] = set()

    def freeze(self) -> None:
        """Stop relaying bytes and EOFs. Connections stay open and new ones are accepted."""
        self._relays.clear()

    async def cut(self) -> None:
        """Reset both sides of every connection."""
        for writer in self._writers:
            reset(writer.transport)
        await self.drop_connections()

    def refuse(self) -> None:
        """Stop listening. Live connections stay."""
        self.stop_listening()

    async def restore(self) -> None:
        """Listen and relay again."""
        self._relays.set()
        if not self.listening:
            await self.start()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._relays.wait()
        try:
            server_reader, server_writer = await asyncio.open_connection(self.target_host, self.target_port)
        except OSError:
            reset(writer.transport)
            return
        ends = {writer, server_writer}
        self._writers |= ends
        try:
            async with asyncio.TaskGroup() as pumps:
                self._pump(pumps, reader, server_writer)
                self._pump(pumps, server_reader, writer)
        except* ConnectionError:
            await self._relays.wait()
            for end in ends:
                reset(end.transport)
        finally:
            self._writers -= ends
            server_writer.close()

    def _pump(self, pumps: asyncio.TaskGroup, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The data in flight. Without latency, a long queue would only add delay.
        in_flight = asyncio.Queue[tuple[float, bytes]](maxsize=256 if self.latency else 1)
        pumps.create_task(self._receive(reader, in_flight))
        pumps.create_task(self._send(in_flight, writer))

    async def _receive(self, reader: asyncio.StreamReader, in_flight: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b"more"
        while data:
            data = await reader.read(_CHUNK)
            await in_flight.put((asyncio.get_running_loop().time() + self.latency, data))

    async def _send(self, in_flight: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await in_flight.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            await self._relays.wait()
            if not data:
                break
            writer.write(data)
            await writer.drain()
            if self.rate:
                await asyncio.sleep(len(data) / self.rate)
        writer.write_eof()
