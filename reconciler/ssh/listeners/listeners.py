"""The listening sockets, here and on the servers, and who owns each.

Owns every listener and its record, and the tries of those that cannot be opened. In: the planner's Open, Close,
Assign, Move. Out: `SocketState`s and `Tries`, each client that comes in (`connector`), `changed` (plan
again) and `left` with the link that carries a listener less.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace

import asyncssh

from reconciler.core import backoff
from reconciler.core.addresses import is_remote
from reconciler.core.descriptor_budget import REMEDY, Budget, NoRoomError, Place
from reconciler.core.faults import internal
from reconciler.core.observed import Failure, Reason, SocketKey, SocketPhase, SocketState, Tries
from reconciler.core.spec import Desired, Listen, LocalTcp, LocalUnix, RemoteTcp, RemoteUnix, TunnelSpec
from reconciler.core.status import stands_by
from reconciler.ssh.clients.connector import ClientConnector
from reconciler.ssh.clients.hold_queue import ListenerClients
from reconciler.ssh.counters import Counters
from reconciler.ssh.errors.channel_errors import from_listen
from reconciler.ssh.link.link import Link
from reconciler.ssh.link.remote_listeners import ListenRefusedError, RemoteListener
from reconciler.ssh.listeners.acceptor import Acceptor, ReserveDescriptor
from reconciler.ssh.listeners.assigned_ports import AssignedPorts
from reconciler.ssh.listeners.cancelling import Cancelling
from reconciler.system.bind import Bound, bind, descriptors_of
from reconciler.system.fault_log import FaultLog

log = logging.getLogger(__name__)

CROWDED_EVERY = 60.0  # seconds between two warnings that there is no room for clients

RELEASED_WITHIN = 5.0  # seconds that a hand-over waits for the cancel, each time it is refused
PORT_FILE_WITHIN = 2.0  # seconds that a new listener waits for its port file before it is announced without it

# Between the requests of a hand-over to another connection, in seconds; then it is a taken port like any other.
HANDOVER_PAUSES = (0.0, 0.05, 0.2, 0.5)


@dataclass(slots=True)
class _Record(ListenerClients):
    """A socket's state is also the door that its clients come through."""

    bound: Bound | None = None
    places: list[Place] = field(default_factory=list)  # of `bound`, in the budget
    acceptors: list[Acceptor] = field(default_factory=list)
    forward: RemoteListener | None = None
    carrier: Link | None = None  # of `forward`
    task: asyncio.Task[None] | None = None


class Listeners:
    """See the module."""

    def __init__(
        self,
        connector: ClientConnector,
        *,
        budget: Budget,
        changed: Callable[[], None],
        left: Callable[[int], None],
        counters: Counters,
        fault_log: FaultLog,
    ) -> None:
        self._fault_log = fault_log
        self._connector = connector
        self._budget = budget
        self._counters = counters
        self._changed = changed
        self._left = left
        self._loop = asyncio.get_running_loop()
        self._records: dict[SocketKey, _Record] = {}
        self._spare = ReserveDescriptor()
        self._crowded_at = -CROWDED_EVERY
        self._ports = AssignedPorts()
        self._cancelling = Cancelling(changed=changed, counters=counters, fault_log=fault_log)
        self._aside: set[asyncio.Task[None]] = set()
        self._kept: dict[SocketKey, Link] = {}  # replaced connections whose server does not give the port back
        self._refused_over: dict[SocketKey, int] = {}  # the link by which a server last refused to listen
        self.tries: dict[SocketKey, Tries] = {}

    # --- what the planner asks ---------------------------------------------------------------------------------

    def holder(self, key: SocketKey) -> Link | None:
        """The connection whose server still listens there, as it does not give ports back."""
        return self._kept.get(key)

    def open(self, key: SocketKey, tunnel: TunnelSpec, link: Link | None) -> None:
        number = link.number if link is not None else None
        record = _Record(SocketState(key, tunnel, SocketPhase.OPENING, number, ""))
        self._records[key] = record
        self._begin(record, lambda: self._open(record, link))

    def owner(self, key: SocketKey) -> TunnelSpec:
        return self._records[key].state.owner

    def assign(self, key: SocketKey, tunnel: TunnelSpec) -> None:
        """Hand it over."""
        record = self._records[key]
        record.state = replace(record.state, owner=tunnel)
        if record.state.phase is SocketPhase.BOUND:
            self._remember(record)
            self._begin_port_file(record)

    def move(self, key: SocketKey, link: Link) -> None:
        """Carry a remote listener by another link: cancel on the old and request on the new, sent together."""
        record = self._records[key]
        record.state = replace(record.state, phase=SocketPhase.OPENING, link=link.number)
        self._begin(record, lambda: self._hand_over(record, link))

    def close(self, key: SocketKey) -> None:
        """Stop listening now; whoever is still on the doorstep is turned away."""
        record = self._records[key]
        self._connector.turn_away(record)
        record.state = replace(record.state, phase=SocketPhase.CLOSING)
        if record.task is not None:
            return  # its own end sees that it is not wanted any more
        self._begin(record, lambda: self._close(record))

    def link_gone(self, number: int) -> None:
        """Listeners on that server went with their link, and so did its refusals: the next is asked afresh."""
        for key in [key for key, link in self._refused_over.items() if link == number]:
            del self._refused_over[key]
            self.tries.pop(key, None)
        for key, record in tuple(self._records.items()):
            if record.state.link == number:
                if record.task is not None:
                    record.task.cancel()
                del self._records[key]
                self._budget.remove_owner(key)

    async def abort_all(self) -> None:
        """Close everything now."""
        for record in self._records.values():
            self._connector.turn_away(record)
            if record.task is not None:
                record.task.cancel()
            self._shut(record)
        tasks = [record.task for record in self._records.values() if record.task is not None]
        tasks += self._aside
        for task in self._aside:
            task.cancel()
        self._records.clear()
        self._spare.give_up()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._ports.close()

    # --- carrying it out ---------------------------------------------------------------------------------------

    def _begin(self, record: _Record, work: Callable[[], Coroutine[None, None, None]]) -> None:
        # The work is made in the task: Python warns of one that was cancelled before its first step.
        async def supervised() -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - one listener's fault must not end the others
                await self._give_up(record, error)
            finally:
                self._changed()

        record.task = self._loop.create_task(supervised(), name=f"socket {record.state.owner.id}")

    async def _give_up(self, record: _Record, error: Exception) -> None:
        """A fault of this program counts as a failed try. What was opened is closed, for the next one to succeed."""
        self._fault_log.tell("listening", error, subject=record.state.owner.id)
        self._shut(record)
        self._note(record, internal("listening", error))
        await self._release(record)
        self._gone(record)

    async def _open(self, record: _Record, link: Link | None) -> None:
        listen = record.state.key.listen
        try:
            if isinstance(listen, (LocalTcp, LocalUnix)):
                address = await self._open_here(record, listen)
            else:
                assert link is not None
                address = await self._open_there(record, listen, link)
        except (OSError, asyncssh.Error, ListenRefusedError) as error:
            self._failed(record, error)
        else:
            await self._opened(record, address)

    async def _hand_over(self, record: _Record, link: Link) -> None:
        """The server's two processes do not wait for each other: the request may come before the cancel."""
        listen = record.state.key.listen
        assert isinstance(listen, RemoteTcp | RemoteUnix)
        released = self._begin_aside(self._release(record), f"cancel {record.state.owner.id}")
        for pause in HANDOVER_PAUSES:
            try:
                await self._request(record, self._with_last_port(record, listen), link)
            except ListenRefusedError:
                await asyncio.wait({released}, timeout=RELEASED_WITHIN)
                await asyncio.sleep(pause)
            except (OSError, asyncssh.Error):
                break  # the next one, too, is gone
            else:
                break
        await self._open(record, link)

    def _failed(self, record: _Record, error: OSError | asyncssh.Error | ListenRefusedError) -> None:
        key = record.state.key
        self._shut(record)
        said, why = (error.said, error.why) if isinstance(error, ListenRefusedError) else ("", "")
        failure = from_listen(error, str(key.listen), local=not is_remote(key.listen), said=said, why=why)
        kept_by = self._kept.get(key)
        if failure.reason is Reason.REMOTE_PORT_IN_USE and kept_by is not None and not kept_by.gone:
            text = "the old connection keeps it until its clients have left: this server does not give ports back"
            failure = replace(failure, what=f"{failure.what}; {text}")
        self._note(record, failure)
        self._gone(record)

    def _note(self, record: _Record, failure: Failure) -> None:
        key = record.state.key
        self.tries[key] = backoff.failed(self.tries.get(key), failure, self._loop.time(), None, "")
        if record.state.link is not None:
            self._refused_over[key] = record.state.link
        if not stands_by(record.state.owner, failure):
            self._counters.failures(record.state.owner.id)[failure.reason] += 1

    async def _opened(self, record: _Record, address: str) -> None:
        self.tries.pop(record.state.key, None)
        self._kept.pop(record.state.key, None)
        self._refused_over.pop(record.state.key, None)
        record.state = replace(record.state, bound=address)
        self._remember(record)
        # Before it is announced: a program that waits for the tunnel then reads its port there.
        writing = self._begin_port_file(record)
        await asyncio.wait({writing}, timeout=PORT_FILE_WITHIN)
        if not writing.done():
            self._remark(record, "its `portFile` is not written yet: the file system does not answer")
        record.task = None
        if record.state.phase is SocketPhase.CLOSING:
            await self._close(record)
            return
        record.state = replace(record.state, phase=SocketPhase.BOUND)
        self._budget.add_owner(record.state.key)

    async def _open_here(self, record: _Record, listen: LocalTcp | LocalUnix) -> str:
        self._take_places(record, descriptors_of(listen))
        record.bound = bound = await bind(listen, self._ports.last(record.state.owner))
        self._take_places(record, bound.descriptors - len(record.places))  # a name may have any number of addresses
        while len(record.places) > bound.descriptors:
            record.places.pop().give_back()
        for sock in bound.sockets:
            record.acceptors.append(
                Acceptor(
                    sock,
                    self._spare,
                    admit=lambda origin: self._connector.admit(record, origin.host),
                    accepted=lambda near, origin: self._connector.accept(record, near, origin),
                    crowded=lambda: self._crowded(record),
                )
            )
        return bound.address

    def _take_places(self, record: _Record, count: int) -> None:
        for _ in range(count):
            place = self._budget.take_listener(1)
            if place is None:
                raise NoRoomError(self._budget.no_listener())
            record.places.append(place)

    def _crowded(self, record: _Record) -> None:
        """A client was sent away because this process may not have another descriptor."""
        tunnel = record.state.owner
        self._connector.meter(tunnel).count("limit")
        self._counters.failures(tunnel.id)[Reason.RESOURCES] += 1
        now = self._loop.time()
        if now - self._crowded_at >= CROWDED_EVERY:
            self._crowded_at = now
            log.warning("%s: no room for another client: %s", tunnel.id, REMEDY)

    async def _open_there(self, record: _Record, listen: RemoteTcp | RemoteUnix, link: Link) -> str:
        if record.forward is None and (last := self._with_last_port(record, listen)) != listen:
            with contextlib.suppress(ListenRefusedError):
                await self._request(record, last, link)
        if record.forward is None:
            await self._request(record, listen, link)
        assert record.forward is not None
        return record.forward.address

    async def _request(self, record: _Record, listen: RemoteTcp | RemoteUnix, link: Link) -> None:
        record.forward = await link.forwards.listen(
            listen, lambda origin: self._connector.accept_far(record, link, origin)
        )
        record.carrier = link

    def _with_last_port(self, record: _Record, listen: RemoteTcp | RemoteUnix) -> RemoteTcp | RemoteUnix:
        """The same address; where the server chooses the port, the one that it chose last."""
        last = self._ports.last(record.state.owner)
        return replace(listen, port=last) if isinstance(listen, RemoteTcp) and not listen.port and last else listen

    def _release(self, record: _Record) -> Coroutine[None, None, None]:
        """Take the listener on the server, if there is one, from the record; the rest is to be awaited."""
        forward, link = record.forward, record.carrier
        record.forward = record.carrier = None
        if link is not None and not link.forwards.cancels:
            self._kept[record.state.key] = link
        return self._cancelling.cancel(forward, link, record.state.owner)

    async def _close(self, record: _Record) -> None:
        self._shut(record)
        await self._release(record)
        self._gone(record)

    def _shut(self, record: _Record) -> None:
        for acceptor in record.acceptors:
            try:
                acceptor.close()
            except Exception as error:  # noqa: BLE001 - the socket itself must be closed all the same
                self._fault_log.tell("ending to accept clients", error, subject=record.state.owner.id)
        record.acceptors.clear()
        if record.bound is not None:
            for sock in record.bound.sockets:
                self._loop.remove_reader(sock)  # nothing is left to remove, unless the acceptor could not
            record.bound.close()
            record.bound = None
        for place in record.places:
            place.give_back()
        record.places.clear()

    def _gone(self, record: _Record) -> None:
        # Only if it still is this record's place: a lost link's sockets are dropped while their tasks end.
        if self._records.get(record.state.key) is record:
            del self._records[record.state.key]
            self._budget.remove_owner(record.state.key)
            if record.state.link is not None:
                self._left(record.state.link)

    def _remember(self, record: _Record) -> None:
        self._ports.bound(record.state.owner, record.state.key.listen, record.state.bound)

    def _begin_port_file(self, record: _Record) -> asyncio.Task[None]:
        return self._begin_aside(self._write_port(record), f"port file of {record.state.owner.id}")

    def _begin_aside(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Begin what goes on beside the records' own tasks, and raises nothing."""
        task = self._loop.create_task(work, name=name)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)
        return task

    async def _write_port(self, record: _Record) -> None:
        """Write the owner's `portFile`, and that of the next owner, should it change meanwhile."""
        owner = None
        while owner is not record.state.owner:
            owner, state = record.state.owner, record.state
            try:
                remark = await self._ports.write(owner, state.key.listen, state.bound)
            except Exception as error:  # noqa: BLE001 - the tunnel goes on without its file
                self._fault_log.tell("writing a port file", error, subject=owner.id)
                remark = internal("writing its `portFile`", error).message
            self._remark(record, remark)

    def _remark(self, record: _Record, remark: str) -> None:
        if remark != record.state.remark:
            record.state = replace(record.state, remark=remark)
            self._changed()

    # --- what is there -----------------------------------------------------------------------------------------

    def on_link(self, number: int) -> int:
        """How many listeners a link carries."""
        return sum(record.state.link == number for record in self._records.values())

    def faults(self) -> dict[str, Tries]:
        """By tunnel id: the listeners that a fault of this program keeps from being closed on the server."""
        return dict(self._cancelling.faults)

    def states(self) -> dict[SocketKey, SocketState]:
        return {key: record.state for key, record in self._records.items()}

    def forget(self, desired: Desired) -> None:
        """Drop what was remembered of sockets and tunnels that nobody asks for any more."""
        wanted: set[Listen] = {tunnel.listen for tunnel in desired.tunnels.values()}
        for store in (self.tries, self._kept, self._refused_over):
            for key in [key for key in store if key.listen not in wanted]:
                del store[key]
        self._ports.forget(desired.tunnels.keys())
