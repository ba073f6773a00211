"""The listening sockets, here and on the servers, and who owns each.

Owns every listener and its record, and the tries of those that cannot be opened. In: the planner's Open, Close,
Assign, Move. Out: `SocketState`s and `Tries`, each client that comes in (`arrivals`), and `changed` (plan again).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path

import asyncssh

from reconciler.core import backoff
from reconciler.core.spec import Endpoint, Listen, LocalTcp, LocalUnix, RemoteTcp, RemoteUnix, TunnelSpec, is_choice
from reconciler.core.status import Failure, Reason, SocketKey, SocketPhase, SocketState, Tries
from reconciler.ssh.arrivals import Arrivals, Door
from reconciler.ssh.failures import from_listen
from reconciler.ssh.link import Link
from reconciler.ssh.listen import BACKLOG, Bound, bind
from reconciler.ssh.near import Near

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Record(Door):
    """A socket's state is also the door that its clients come through."""

    bound: Bound | None = None
    servers: list[asyncio.Server] = field(default_factory=list)
    listener: asyncssh.SSHListener | None = None
    task: asyncio.Task[None] | None = None


class Sockets:
    """See the module."""

    def __init__(self, arrivals: Arrivals, *, changed: Callable[[], None]) -> None:
        self._arrivals = arrivals
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._records: dict[SocketKey, _Record] = {}
        self._ports: dict[str, int] = {}  # by tunnel id: the chosen port it had last
        self.tries: dict[SocketKey, Tries] = {}

    # --- what the planner asks ---------------------------------------------------------------------------------

    def open(self, key: SocketKey, tunnel: TunnelSpec, link: Link | None) -> None:
        number = link.number if link is not None else None
        record = _Record(SocketState(key, tunnel, SocketPhase.OPENING, number, ""))
        self._records[key] = record
        self._begin(record, self._open(record, link))

    def assign(self, key: SocketKey, tunnel: TunnelSpec) -> TunnelSpec:
        """Hand it over. Returns the previous owner."""
        record = self._records[key]
        old = record.state.owner
        record.state = replace(record.state, owner=tunnel)
        if record.state.phase is SocketPhase.BOUND:
            self._publish(record)
        return old

    def move(self, key: SocketKey, link: Link, old: Link | None) -> None:
        """Carry a remote listener by another link: cancel on the old and request on the new, sent together."""
        record = self._records[key]
        if record.listener is not None and old is not None:
            record.listener.close()
        record.listener = None
        record.state = replace(record.state, phase=SocketPhase.OPENING, link=link.number)
        self._begin(record, self._open(record, link))

    def close(self, key: SocketKey) -> None:
        """Stop listening now; whoever is still on the doorstep is turned away."""
        record = self._records[key]
        record.state = replace(record.state, phase=SocketPhase.CLOSING)
        self._arrivals.turn_away(record)
        if record.task is not None:
            return  # its own end sees that it is not wanted any more
        self._begin(record, self._close(record))

    def link_lost(self, number: int) -> None:
        """Listeners on that server went with their link."""
        for key, record in tuple(self._records.items()):
            if record.state.link == number:
                if record.task is not None:
                    record.task.cancel()
                del self._records[key]

    async def abort_all(self) -> None:
        """Close everything now."""
        for record in self._records.values():
            self._arrivals.turn_away(record)
            if record.task is not None:
                record.task.cancel()
            self._shut(record)
        tasks = [record.task for record in self._records.values() if record.task is not None]
        self._records.clear()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- carrying it out ---------------------------------------------------------------------------------------

    def _begin(self, record: _Record, work: Coroutine[None, None, None]) -> None:
        async def supervised() -> None:
            key = record.state.key
            try:
                await work
            except Exception as error:  # one socket's bug must not end the others: it is reported as what it is
                log.exception("%s: a fault of this program", record.state.owner.id)
                self._shut(record)
                self._gone(record)
                failure = Failure(Reason.INTERNAL, f"a fault of this program: {error!r}; please report it")
                self.tries[key] = backoff.failed(self.tries.get(key), failure, self._loop.time(), None, "")
            self._changed()

        record.task = self._loop.create_task(supervised(), name=f"socket {record.state.owner.id}")

    async def _open(self, record: _Record, link: Link | None) -> None:
        key = record.state.key
        listen = key.listen
        try:
            if isinstance(listen, (LocalTcp, LocalUnix)):
                address = await self._open_here(record, listen)
            else:
                assert link is not None
                address = await self._open_there(record, listen, link)
        except (OSError, asyncssh.Error, asyncssh.ChannelListenError) as error:
            self._shut(record)
            self._gone(record)
            here = isinstance(listen, (LocalTcp, LocalUnix))
            failure = from_listen(error, str(listen), local=here, said=link.said if link is not None else "")
            self.tries[key] = backoff.failed(self.tries.get(key), failure, self._loop.time(), None, "")
            return
        self.tries.pop(key, None)
        record.task = None
        if record.state.phase is SocketPhase.CLOSING:
            await self._close(record)
            return
        record.state = replace(record.state, phase=SocketPhase.BOUND, bound=address)
        self._publish(record)

    async def _open_here(self, record: _Record, listen: LocalTcp | LocalUnix) -> str:
        record.bound = await bind(listen, self._ports.get(record.state.owner.id, 0))
        for sock in record.bound.sockets:
            server = await self._loop.create_server(
                lambda: Near(lambda near: self._arrivals.accept(record, near)), sock=sock, backlog=BACKLOG
            )
            record.servers.append(server)
        return record.bound.address

    async def _open_there(self, record: _Record, listen: RemoteTcp | RemoteUnix, link: Link) -> str:
        record.listener = await link.listen(
            listen, lambda host, port: self._arrivals.accept_far(record, link, host, port)
        )
        if isinstance(listen, RemoteUnix):
            return listen.path
        return str(Endpoint(listen.host, record.listener.get_port()))

    async def _close(self, record: _Record) -> None:
        if record.listener is not None:
            record.listener.close()
            await record.listener.wait_closed()
        self._shut(record)
        self._gone(record)

    def _shut(self, record: _Record) -> None:
        for server in record.servers:
            server.close()
        record.servers.clear()
        if record.bound is not None:
            record.bound.close()
            record.bound = None

    def _gone(self, record: _Record) -> None:
        # Only if it still is this record's place: a lost link's sockets are dropped while their tasks end.
        if self._records.get(record.state.key) is record:
            del self._records[record.state.key]

    def _publish(self, record: _Record) -> None:
        """Remember and, if asked, write down a chosen port."""
        owner = record.state.owner
        if not is_choice(record.state.key.listen):
            return
        port = record.state.bound.rpartition(":")[2]
        self._ports[owner.id] = int(port)
        if owner.policy.port_file:
            path = Path(owner.policy.port_file)
            beside = path.with_name(f".{path.name}.new")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                beside.write_text(f"{port}\n")
                beside.replace(path)
            except OSError as error:
                log.warning("%s: cannot write its portFile %s: %s", owner.id, path, error.strerror)

    # --- what is there -----------------------------------------------------------------------------------------

    def on_link(self, number: int) -> int:
        """How many listeners a link carries."""
        return sum(record.state.link == number for record in self._records.values())

    def states(self) -> dict[SocketKey, SocketState]:
        return {key: record.state for key, record in self._records.items()}

    def forget(self, wanted: set[Listen]) -> None:
        """Drop the tries of sockets that nobody asks for any more."""
        for key in [key for key in self.tries if key.listen not in wanted]:
            del self.tries[key]
