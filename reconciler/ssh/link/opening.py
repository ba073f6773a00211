"""A request for one channel: its answer, the silence of the server, or the end of the time for it.

Is the handler of the channel until the server answers. Input: the answer, or its absence. Output: a started relay, and
one call of `done`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import asyncssh

from reconciler.ssh.channels.channel import Channel
from reconciler.ssh.channels.handler import WaitingHandler
from reconciler.ssh.errors.failure import ServerSilent
from reconciler.ssh.relay.relay import Relay
from reconciler.system.event_loop.deadlines import Deadlines

Done = Callable[[Exception | None, float], None]  # called with the seconds that it took, too

ASK_AFTER = 2.0  # seconds without an answer after which the server is asked whether it answers at all
ANSWER_WITHIN = 3.0  # seconds in which it then sends something, whatever it is


class PendingOpenings:
    """The requests of one link that are not answered.

    ask            sends a request that shows whether the server answers at all, or only the destination does not
    last_received  returns when the server last sent something (loop time)
    """

    def __init__(self, limit: float, ask: Callable[[], None], last_received: Callable[[], float]) -> None:
        self.ask = ask
        self.last_received = last_received
        self._waiting: dict[Opening, None] = {}  # an ordered set
        self.set_limit(limit)

    def set_limit(self, limit: float) -> None:
        """Set the seconds for the answer to later requests."""
        self.limit = limit
        self._asks = Deadlines(min(ASK_AFTER, limit / 2), self._ask)

    def add(self, opening: Opening, now: float) -> None:
        self._waiting[opening] = None
        self._asks.add(opening, now)

    def discard(self, opening: Opening) -> None:
        self._waiting.pop(opening, None)
        self._asks.remove(opening)

    def __iter__(self) -> Iterator[Opening]:
        """Iterate over those that wait now."""
        return iter(tuple(self._waiting))

    def _ask(self, opening: Opening) -> None:
        if opening in self._waiting:  # not if the limit was changed, and it has ended since
            opening.ask_server()


class Opening(WaitingHandler):
    """One request. A channel that opens after the end of the time is closed at once: see `State.ABANDONED`.

    pending  this one is among them from `begin` on
    done     called with an exception, or None when the relay has started; not called after `cancel`
    """

    def __init__(self, relay: Relay, pending: PendingOpenings, done: Done) -> None:
        self._relay = relay
        self._pending = pending
        self._done = done
        self._channel: Channel | None = None
        self._limit = pending.limit
        self._loop = asyncio.get_running_loop()
        self._began_at = self._asked_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, channel: Channel) -> None:
        self._channel = channel
        self._relay.request = self
        self._pending.add(self, self._began_at)

    def cancel(self) -> None:
        """Give the request up."""
        channel = self._channel
        self._end()
        if channel is not None:
            channel.close()

    def _end(self) -> Done:
        """Return what to call with the result. Break the reference cycles: they would last until a full collection."""
        if self._timer is not None:
            self._timer.cancel()
        self._pending.discard(self)
        done, self._done, self._channel = self._done, _ignored, None
        return done

    def fail(self, error: Exception) -> None:
        """Give the request up, and say why."""
        done = self._done
        self.cancel()
        done(error, self._seconds())

    def _seconds(self) -> float:
        return self._loop.time() - self._began_at

    # --- no answer ---------------------------------------------------------------------------------------------

    def ask_server(self) -> None:
        """Find out whether the server answers at all."""
        self._pending.ask()
        self._asked_at, ends_at = self._loop.time(), self._began_at + self._limit
        self._timer = self._loop.call_at(min(self._asked_at + ANSWER_WITHIN, ends_at), self._check_server, ends_at)

    def _check_server(self, ends_at: float) -> None:
        if self._pending.last_received() < self._asked_at:
            self.fail(ServerSilent(f"the SSH server sent nothing within {self._limit:g} s"))
        else:
            self._timer = self._loop.call_at(ends_at, self._over)

    def _over(self) -> None:
        self.fail(TimeoutError(f"no answer within {self._limit:g} s"))

    # --- the channel's handler ---------------------------------------------------------------------------------

    def opened(self) -> None:
        channel, done = self._channel, self._end()
        assert channel is not None
        self._relay.start(channel)
        done(None, self._seconds())

    def open_failed(self, code: int, reason: str) -> None:
        self._end()(asyncssh.ChannelOpenError(code, reason), self._seconds())


def _ignored(_error: Exception | None, _seconds: float) -> None:
    pass
