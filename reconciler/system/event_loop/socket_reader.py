"""Reads the socket of a transport for its protocol: in place of the transport, where the event loop allows it.

A transport reads through the event loop's queue, which costs as much as opening a small packet. In a loop with a
`DirectSelector` the socket is read from the selector's call instead. In any other loop the transport reads it.
"""

from __future__ import annotations

import asyncio
import os

from reconciler.system.event_loop.readiness import direct_selector


class SocketReader:
    """Fills the buffers of a protocol.

    error  what a read raised. The transport is aborted then, and reports no error of its own
    """

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.BufferedProtocol) -> None:
        """Begin to read. `protocol`: the transport's, too, for the end of the bytes and of the connection."""
        self._transport = transport
        self._get_buffer, self._buffer_updated = protocol.get_buffer, protocol.buffer_updated
        self._fd: int = transport.get_extra_info("socket").fileno()
        self._selector = direct_selector()
        self._stopped = False  # by `stop`
        self._held = False  # by `pause_reading`
        self.error: OSError | None = None
        if self._selector is not None:
            transport.pause_reading()
            self._selector.add_reader(self._fd, self._readable)

    def stop(self) -> None:
        """Read nothing until `start`."""
        self._stopped = True
        self._update()

    def start(self) -> None:
        self._stopped = False
        self._update()

    def pause_reading(self) -> None:
        """Read nothing until `resume_reading`, whatever `start` says."""
        self._held = True
        self._update()

    def resume_reading(self) -> None:
        self._held = False
        self._update()

    @property
    def is_reading(self) -> bool:
        return not (self._stopped or self._held or self._transport.is_closing())

    def close(self) -> None:
        """Read no more: the connection is lost."""
        if self._selector is not None:
            self._selector.remove_reader(self._fd)

    def _update(self) -> None:
        if self._selector is None:
            (self._transport.resume_reading if self.is_reading else self._transport.pause_reading)()
        elif self.is_reading:
            self._selector.add_reader(self._fd, self._readable)
        else:
            self._selector.remove_reader(self._fd)

    def _readable(self) -> None:
        if self._transport.is_closing():
            self.close()
            return
        try:
            count = os.readv(self._fd, (self._get_buffer(-1),))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.error = error
            self.close()
            self._transport.abort()
            return
        if count:
            self._buffer_updated(count)
        else:
            self.close()
            self._selector = None
            self._transport.resume_reading()  # it reads the end again, and tells the protocol
