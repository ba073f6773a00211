"""A channel as a `Stream`, for probes and diagnoses: what they write and read waits in buffers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import asyncssh

from reconciler.ssh.channels.channel import Channel
from reconciler.ssh.channels.handler import ChannelHandler

Opener = Callable[[ChannelHandler], Channel]  # asks the server for a channel


class ChannelStream:
    """A channel of a link as a `Stream`. `ready` tells the link that the channel has bytes to send."""

    def __init__(self, ready: Callable[[Channel], None]) -> None:
        self._ready = ready
        self._handler = _Buffers()
        self._channel: Channel | None = None

    async def open(self, request: Opener, limit: float) -> None:
        """Wait until the channel is open. Raises ChannelOpenError, and TimeoutError after `limit` seconds."""
        self._channel = request(self._handler)
        try:
            async with asyncio.timeout(limit):
                await self._handler.answer
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise TimeoutError(f"no answer within {limit:g} s") from None
            raise

    async def read(self, limit: int) -> bytes:
        handler = self._handler
        while not handler.received and not handler.has_ended:
            handler.changed.clear()
            await handler.changed.wait()
        if not handler.received and handler.failure:
            raise OSError(handler.failure)
        data = bytes(handler.received[:limit])
        del handler.received[:limit]
        if data and self._channel is not None:
            self._channel.take(len(data))
        return data

    def write(self, data: bytes) -> None:
        if self._channel is not None:
            self._handler.unsent += data
            self._ready(self._channel)

    def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


class _Buffers:
    """The handler of the channel."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.changed = asyncio.Event()
        self.received = bytearray()
        self.unsent = bytearray()
        self.has_ended = False
        self.failure = ""

    def opened(self) -> None:
        if not self.answer.done():
            self.answer.set_result(None)

    def open_failed(self, code: int, reason: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(asyncssh.ChannelOpenError(code, reason))

    def data(self, data: memoryview) -> None:
        self.received += data
        self.changed.set()

    def read(self, space: Sequence[memoryview]) -> int:
        count = min(len(space[0]), len(self.unsent))
        space[0][:count] = self.unsent[:count]
        del self.unsent[:count]
        return count

    def eof(self) -> None:
        self.has_ended = True
        self.changed.set()

    def closed(self, reason: str) -> None:
        self.failure = reason
        self.eof()

    def gone(self) -> None: ...
