"""`open_tunnels`: runs the engine in the event loop of the calling program, while a block runs.

The block starts no file watcher, serves no endpoint and installs no signal handler. It does not change the limit of
open files: listeners, links and clients together use at most about three quarters of the descriptors that are free
under the soft limit when the block is entered. A program with many clients raises the limit first
(`resource.setrlimit`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping

from reconciler.api.block import Block, seconds
from reconciler.api.errors import NoPortError
from reconciler.api.events import EventStream
from reconciler.api.results import Applied, TunnelState
from reconciler.api.source import Source
from reconciler.config.options import Options
from reconciler.core.overlay import NoSuchTunnelError, unknown

WITHIN = 30.0  # seconds that a call waits by default
PAUSE_MAX = 10 * 366 * 86_400.0  # seconds: ten years


class Tunnels:
    """The tunnels of an `open_tunnels` block.

    Calls that wait end after `within` seconds at the latest, and with BlockEndedError when the block ends. An id is
    `target/name`. `restart`, `pause` and `resume` also take the name of a target, for all of its tunnels, and globs.
    """

    def __init__(self, block: Block) -> None:
        self._block = block

    def __getitem__(self, tunnel: str) -> TunnelState:
        """Return the state of the tunnel `target/name` at this moment.

        :raises NoSuchTunnelError: (a KeyError) if there is no such tunnel.
        :raises BlockEndedError: after the end of the block.
        """
        statuses = self._block.statuses()
        for status in statuses:
            if status.id == tunnel:
                return TunnelState.of(status)
        raise NoSuchTunnelError(unknown(tunnel, [status.id for status in statuses]))

    def all(self) -> tuple[TunnelState, ...]:
        """Return the state of every tunnel at this moment, in the order of the configuration.

        :raises BlockEndedError: after the end of the block.
        """
        return tuple(map(TunnelState.of, self._block.statuses()))

    def port(self, tunnel: str) -> int:
        """Return the port that a tunnel listens on, configured or assigned.

        :raises NoSuchTunnelError: (a KeyError) if there is no such tunnel.
        :raises NoPortError: (a ValueError) for a unix socket, and while the port is not assigned yet.
        :raises BlockEndedError: after the end of the block.
        """
        state = self[tunnel]
        if state.port is not None:
            return state.port
        if state.is_unix:
            raise NoPortError(f"{tunnel} has no port: it listens on the unix socket {state.address}")
        raise NoPortError(f"{tunnel} has no port yet, and is {state.phase}: wait with `until_up`")

    async def until_up(self, within: float = WITHIN) -> None:
        """Wait until all tunnels are up, except those in phase off or standby.

        Shows the progress on stderr if stderr is a terminal.

        :param within: the longest time to wait, in seconds.
        :raises TunnelsNotUpError: after that time, or at once if no retry helps because each missing tunnel needs
            action.
        :raises BlockEndedError: if the block ends.
        """
        await self._block.until_up(self._block.deadline(within), within)

    def events(self, within: float | None = None) -> EventStream:
        """Return an asynchronous iterator over the events from now on.

        Each iterator gets every event. At most 1000 are kept for it: an `EventsLost` says how many it has missed.

        :param within: seconds after which the iterator ends; by default it ends with the block.
        """
        self._block.check()
        return EventStream(self._block.events, None if within is None else seconds(within))

    async def apply(self, source: Source, *, within: float = WITHIN) -> Applied:
        """Replace the configuration, and wait until the tunnels match it.

        Only the tunnels that differ are affected: clients of the others stay connected. A configuration with an error
        is rejected as a whole, and nothing changes. Restarts and pauses stay in effect. The call does not wait for a
        server that is down: see `until_up`.

        :param source: as for `open_tunnels`.
        :param within: the longest time to wait, in seconds.
        :returns: what was opened, closed, changed or rejected.
        :raises ReadTimeoutError: if the configuration cannot be read in time.
        :raises BlockEndedError: if the block ends.
        """
        return await self._block.apply(source, within)

    async def restart(self, tunnel: str, *, now: bool = False, within: float = WITHIN) -> tuple[TunnelState, ...]:
        """Replace the connections of a target, make before break, and wait until that is done.

        :param tunnel: a target, or a tunnel to restart its target; globs are allowed.
        :param now: cut the clients instead of leaving them on the old connection until they end.
        :param within: the longest time to wait, in seconds.
        :returns: the tunnels of the restarted targets, as they are then. If no new connection can be made, they stay on
            the old one, and their message says why.
        :raises NoSuchTunnelError: (a KeyError) if there is no such tunnel.
        :raises BlockEndedError: if the block ends.
        """
        deadline = self._block.deadline(within)
        return await self._block.settled(self._block.operations.restart([tunnel], now=now), deadline)

    async def pause(
        self, tunnel: str, seconds: float | None = None, *, within: float = WITHIN
    ) -> tuple[TunnelState, ...]:
        """Close the listener of a tunnel, and wait until that is done. Its clients drain.

        :param tunnel: a tunnel, or a target for all of its tunnels; globs are allowed.
        :param seconds: when to resume it; by default it stays off until `resume`. `apply` does not resume it.
        :param within: the longest time to wait, in seconds.
        :returns: the paused tunnels, as they are then.
        :raises NoSuchTunnelError: (a KeyError) if there is no such tunnel.
        :raises BlockEndedError: if the block ends.
        """
        deadline = self._block.deadline(within)
        if seconds is not None and not 0 <= seconds <= PAUSE_MAX:
            raise ValueError(f"a pause of {seconds} s is out of range: expected 0 to {PAUSE_MAX:.0f}")
        return await self._block.settled(self._block.operations.pause([tunnel], seconds), deadline)

    async def resume(self, tunnel: str, *, within: float = WITHIN) -> tuple[TunnelState, ...]:
        """End the pause of a tunnel, and wait until it listens again.

        :param tunnel: a tunnel, or a target for all of its tunnels; globs are allowed.
        :param within: the longest time to wait, in seconds.
        :returns: the resumed tunnels, as they are then.
        :raises NoSuchTunnelError: (a KeyError) if there is no such tunnel.
        :raises BlockEndedError: if the block ends.
        """
        deadline = self._block.deadline(within)
        return await self._block.settled(self._block.operations.resume([tunnel]), deadline)


@contextlib.asynccontextmanager
async def open_tunnels(
    source: Source,
    *,
    environ: Mapping[str, str] | None = None,
    options: Options | None = None,
    within: float = WITHIN,
) -> AsyncIterator[Tunnels]:
    """Open the tunnels of `source`, keep them open while the block runs, close them at its end.

    The end of the block cuts live clients.

    :param source: a path of a file or directory; the text of a file (a `str` with a line end, or with a `}` at its
        end); or the content of a file as a mapping.
    :param environ: the environment variables that the configuration may use; by default those of the process.
    :param options: restrictions on the configuration.
    :param within: seconds until all tunnels must be up.
    :raises ConfigError: if the source has an error.
    :raises ReadTimeoutError: if the source cannot be read in time.
    :raises TunnelsNotUpError: if not all tunnels are up in time, or at once if each missing tunnel needs action.
    """
    block = Block(dict(os.environ) if environ is None else environ, options)
    try:
        await block.start(source, within)
        yield Tunnels(block)
    finally:
        await block.end()
