"""A request for one channel: its answer, or the end of the time for it.

Is the handler of the channel until the server answers. Input: the answer, or its absence. Output: a started relay, and
one call of `done`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import asyncssh

from reconciler.ssh.channels.channel import Channel
from reconciler.ssh.errors.failure import ServerSilent
from reconciler.ssh.relay.relay import Relay

Done = Callable[[Exception | None], None]


class Opening:
    """One request. A channel that opens after the end of the time is closed at once: see `State.ABANDONED`.

    limit          seconds for the answer
    ask            sends a request that shows whether the server answers at all, or only the destination does not
    last_received  returns when the server last sent something (loop time)
    done           called with an exception, or None when the relay has started; not called after `cancel`
    """

    def __init__(
        self, relay: Relay, limit: float, ask: Callable[[], None], last_received: Callable[[], float], done: Done
    ) -> None:
        self._relay = relay
        self._limit = limit
        self._ask = ask
        self._last_received = last_received
        self._done = done
        self._channel: Channel | None = None
        self._loop = asyncio.get_running_loop()
        self._asked_at = self._loop.time() + limit / 2
        self._timer = self._loop.call_at(self._asked_at, self._half_over)

    def begin(self, channel: Channel) -> None:
        self._channel = channel
        self._relay.request = self

    def cancel(self) -> None:
        """Give the request up."""
        channel = self._channel
        self._end()
        if channel is not None:
            channel.close()

    def _end(self) -> Done:
        """Return what to call with the result. Break the reference cycles: they would last until a full collection."""
        self._timer.cancel()
        done, self._done, self._channel = self._done, _ignored, None
        return done

    def _half_over(self) -> None:
        self._ask()
        self._timer = self._loop.call_later(self._limit / 2, self._over)

    def _over(self) -> None:
        error = TimeoutError if self._last_received() >= self._asked_at else ServerSilent
        done = self._done
        self.cancel()
        done(error(f"no answer within {self._limit:g} s"))

    # --- the channel's handler ---------------------------------------------------------------------------------

    def opened(self) -> None:
        channel, done = self._channel, self._end()
        assert channel is not None
        self._relay.start(channel)
        done(None)

    def open_failed(self, code: int, reason: str) -> None:
        self._end()(asyncssh.ChannelOpenError(code, reason))

    def data(self, data: memoryview) -> None: ...

    def read(self, space: Sequence[memoryview]) -> int:
        return 0

    def eof(self) -> None: ...

    def closed(self, reason: str) -> None: ...

    def gone(self) -> None: ...


def _ignored(_error: Exception | None) -> None:
    pass
