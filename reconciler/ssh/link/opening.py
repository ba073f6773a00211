"""A request for one channel: its answer, the silence of the server, or the end of the time for it.

Is the handler of the channel until the server answers. Input: the answer, or its absence. Output: a started relay, and
one call of `done`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import asyncssh

from reconciler.ssh.channels.channel import Channel
from reconciler.ssh.channels.handler import WaitingHandler
from reconciler.ssh.errors.failure import ServerSilent
from reconciler.ssh.relay.relay import Relay

Done = Callable[[Exception | None], None]

ASK_AFTER = 2.0  # seconds without an answer after which the server is asked whether it answers at all
ANSWER_WITHIN = 3.0  # seconds in which it then sends something, whatever it is


class Opening(WaitingHandler):
    """One request. A channel that opens after the end of the time is closed at once: see `State.ABANDONED`.

    limit          seconds for the answer
    ask            sends a request that shows whether the server answers at all, or only the destination does not
    last_received  returns when the server last sent something (loop time)
    pending        the requests of the link that are not answered; this one is among them from `begin` on
    done           called with an exception, or None when the relay has started; not called after `cancel`
    """

    def __init__(
        self,
        relay: Relay,
        limit: float,
        ask: Callable[[], None],
        last_received: Callable[[], float],
        pending: set[Opening],
        done: Done,
    ) -> None:
        self._relay = relay
        self._limit = limit
        self._ask = ask
        self._last_received = last_received
        self._pending = pending
        self._done = done
        self._channel: Channel | None = None
        self._loop = asyncio.get_running_loop()
        self._ends_at = self._loop.time() + limit
        self._asked_at = min(self._loop.time() + ASK_AFTER, self._ends_at - limit / 2)
        self._timer = self._loop.call_at(self._asked_at, self._ask_server)

    def begin(self, channel: Channel) -> None:
        self._channel = channel
        self._relay.request = self
        self._pending.add(self)

    def cancel(self) -> None:
        """Give the request up."""
        channel = self._channel
        self._end()
        if channel is not None:
            channel.close()

    def _end(self) -> Done:
        """Return what to call with the result. Break the reference cycles: they would last until a full collection."""
        self._timer.cancel()
        self._pending.discard(self)
        done, self._done, self._channel = self._done, _ignored, None
        return done

    def fail(self, error: Exception) -> None:
        """Give the request up, and say why."""
        done = self._done
        self.cancel()
        done(error)

    def _ask_server(self) -> None:
        self._ask()
        self._timer = self._loop.call_at(min(self._asked_at + ANSWER_WITHIN, self._ends_at), self._check_server)

    def _check_server(self) -> None:
        if self._last_received() < self._asked_at:
            self.fail(ServerSilent(f"the SSH server sent nothing within {self._limit:g} s"))
        else:
            self._timer = self._loop.call_at(self._ends_at, self._over)

    def _over(self) -> None:
        self.fail(TimeoutError(f"no answer within {self._limit:g} s"))

    # --- the channel's handler ---------------------------------------------------------------------------------

    def opened(self) -> None:
        channel, done = self._channel, self._end()
        assert channel is not None
        self._relay.start(channel)
        done(None)

    def open_failed(self, code: int, reason: str) -> None:
        self._end()(asyncssh.ChannelOpenError(code, reason))


def _ignored(_error: Exception | None) -> None:
    pass
