"""The listening sockets, here and on the servers, and the tunnel that owns each.

Owns each listener and its record, and the failed tries of those that cannot be opened. Input: the planner's Open,
Close, Assign and Move. Output: `SocketState`s and `Tries`, and each client, to the connector. Calls `changed` when the
planner should run again, and `listener_gone` with the link that lost a listener.
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

EXHAUSTED_LOG_INTERVAL = 60.0  # seconds between two warnings about missing descriptors

RELEASE_TIMEOUT = 5.0  # seconds that a move waits for the cancel, each time that the request is refused
PORT_FILE_TIMEOUT = 2.0  # seconds that a new listener waits for its port file before it is reported as bound

# Seconds between the requests of a move to another link. After the last one the port counts as taken.
MOVE_PAUSES = (0.0, 0.05, 0.2, 0.5)


@dataclass(slots=True)
class _Record(ListenerClients):
    """The record of one listener: its state and clients, and the resources that it uses."""

    bound: Bound | None = None
    places: list[Place] = field(default_factory=list)  # of `bound`, in the descriptor budget
    acceptors: list[Acceptor] = field(default_factory=list)
    forward: RemoteListener | None = None
    carrier: Link | None = None  # the link that carries `forward`
    task: asyncio.Task[None] | None = None


class Listeners:
    """Opens, moves, assigns and closes listeners, each in a task of its own.

    changed        called when the planner should run again
    listener_gone  called with the number of a link that carries one listener less
    """

    def __init__(
        self,
        connector: ClientConnector,
        *,
        budget: Budget,
        changed: Callable[[], None],
        listener_gone: Callable[[int], None],
        counters: Counters,
        fault_log: FaultLog,
    ) -> None:
        self._fault_log = fault_log
        self._connector = connector
        self._budget = budget
        self._counters = counters
        self._changed = changed
        self._listener_gone = listener_gone
        self._loop = asyncio.get_running_loop()
        self._records: dict[SocketKey, _Record] = {}
        self._reserve = ReserveDescriptor()
        self._exhausted_logged_at = -EXHAUSTED_LOG_INTERVAL
        self._ports = AssignedPorts()
        self._cancelling = Cancelling(changed=changed, counters=counters, fault_log=fault_log)
        self._background: set[asyncio.Task[None]] = set()
        self._unreleased: dict[SocketKey, Link] = {}  # replaced links whose server does not release the port
        self._refused_on: dict[SocketKey, int] = {}  # the link on which the server last refused to listen
        self.tries: dict[SocketKey, Tries] = {}

    # --- actions of the planner --------------------------------------------------------------------------------

    def unreleased_link(self, key: SocketKey) -> Link | None:
        """Return the replaced link whose server still holds the address, None if there is none."""
        return self._unreleased.get(key)

    def open(self, key: SocketKey, tunnel: TunnelSpec, link: Link | None) -> None:
        number = link.number if link is not None else None
        record = _Record(SocketState(key, tunnel, SocketPhase.OPENING, number, ""))
        self._records[key] = record
        self._begin(record, lambda: self._open(record, link))

    def owner(self, key: SocketKey) -> TunnelSpec:
        return self._records[key].state.owner

    def assign(self, key: SocketKey, tunnel: TunnelSpec) -> None:
        """Give a socket to another owner, or to the same one with other settings."""
        record = self._records[key]
        record.state = replace(record.state, owner=tunnel)
        if record.state.phase is SocketPhase.BOUND:
            self._remember(record)
            self._begin_port_file(record)

    def move(self, key: SocketKey, link: Link) -> None:
        """Move a remote listener to another link. The cancel and the new request are sent together."""
        record = self._records[key]
        record.state = replace(record.state, phase=SocketPhase.OPENING, link=link.number)
        self._begin(record, lambda: self._move(record, link))

    def close(self, key: SocketKey) -> None:
        """Stop listening now, and reject the clients that have no channel yet."""
        record = self._records[key]
        self._connector.reject_waiting(record)
        record.state = replace(record.state, phase=SocketPhase.CLOSING)
        if record.task is not None:
            return  # the running task sees the phase when it ends
        self._begin(record, lambda: self._close(record))

    def link_gone(self, number: int) -> None:
        """Drop the listeners of a link that has ended, and the refusals on it: another link is tried at once."""
        for key in [key for key, link in self._refused_on.items() if link == number]:
            del self._refused_on[key]
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
            self._connector.reject_waiting(record)
            if record.task is not None:
                record.task.cancel()
            self._shut(record)
        tasks = [record.task for record in self._records.values() if record.task is not None]
        tasks += self._background
        for task in self._background:
            task.cancel()
        self._records.clear()
        self._reserve.release()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._ports.close()

    # --- carrying out actions ----------------------------------------------------------------------------------

    def _begin(self, record: _Record, work: Callable[[], Coroutine[None, None, None]]) -> None:
        # The coroutine is created inside the task: Python warns about one that was cancelled before its first step.
        async def supervised() -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - a fault of one listener must not end the others
                await self._abandon(record, error)
            finally:
                self._changed()

        record.task = self._loop.create_task(supervised(), name=f"socket {record.state.owner.id}")

    async def _abandon(self, record: _Record, error: Exception) -> None:
        """Count an internal error as a failed try, and close what was opened so that the next try can succeed."""
        self._fault_log.tell("listening", error, subject=record.state.owner.id)
        self._shut(record)
        self._record_failure(record, internal("listening", error))
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

    async def _move(self, record: _Record, link: Link) -> None:
        """Move a remote listener. OpenSSH has a process for each connection: the request may precede the cancel."""
        listen = record.state.key.listen
        assert isinstance(listen, RemoteTcp | RemoteUnix)
        released = self._begin_background(self._release(record), f"cancel {record.state.owner.id}")
        for pause in MOVE_PAUSES:
            try:
                await self._request(record, self._with_last_port(record, listen), link)
            except ListenRefusedError:
                await asyncio.wait({released}, timeout=RELEASE_TIMEOUT)
                await asyncio.sleep(pause)
            except (OSError, asyncssh.Error):
                break  # the new link, too, is gone
            else:
                break
        await self._open(record, link)

    def _failed(self, record: _Record, error: OSError | asyncssh.Error | ListenRefusedError) -> None:
        key = record.state.key
        self._shut(record)
        debug_text, answer = (
            (error.debug_text, error.answer_text) if isinstance(error, ListenRefusedError) else ("", "")
        )
        failure = from_listen(error, str(key.listen), local=not is_remote(key.listen), said=debug_text, why=answer)
        unreleased = self._unreleased.get(key)
        if failure.reason is Reason.REMOTE_PORT_IN_USE and unreleased is not None and not unreleased.gone:
            text = "this server releases a port only when the old connection ends, after its last client"
            failure = replace(failure, what=f"{failure.what}; {text}")
        self._record_failure(record, failure)
        self._gone(record)

    def _record_failure(self, record: _Record, failure: Failure) -> None:
        key = record.state.key
        self.tries[key] = backoff.failed(self.tries.get(key), failure, self._loop.time(), None, "")
        if record.state.link is not None:
            self._refused_on[key] = record.state.link
        if not stands_by(record.state.owner, failure):
            self._counters.failures(record.state.owner.id)[failure.reason] += 1

    async def _opened(self, record: _Record, address: str) -> None:
        self.tries.pop(record.state.key, None)
        self._unreleased.pop(record.state.key, None)
        self._refused_on.pop(record.state.key, None)
        record.state = replace(record.state, bound=address)
        self._remember(record)
        # Before it is reported as bound: a program that waits for the tunnel then finds its port in the file.
        writing = self._begin_port_file(record)
        await asyncio.wait({writing}, timeout=PORT_FILE_TIMEOUT)
        if not writing.done():
            self._set_remark(record, "its `portFile` is not written yet: the file system does not answer")
        record.task = None
        if record.state.phase is SocketPhase.CLOSING:
            await self._close(record)
            return
        record.state = replace(record.state, phase=SocketPhase.BOUND)
        self._budget.add_owner(record.state.key)

    async def _open_here(self, record: _Record, listen: LocalTcp | LocalUnix) -> str:
        self._take_places(record, descriptors_of(listen))
        record.bound = bound = await bind(listen, self._ports.last(record.state.owner))
        self._take_places(
            record, bound.descriptors - len(record.places)
        )  # a host name may have any number of addresses
        while len(record.places) > bound.descriptors:
            record.places.pop().give_back()
        for sock in bound.sockets:
            record.acceptors.append(
                Acceptor(
                    sock,
                    self._reserve,
                    admit=lambda origin: self._connector.admit(record, origin.host),
                    accepted=lambda client, origin: self._connector.accept(record, client, origin),
                    exhausted=lambda: self._exhausted(record),
                )
            )
        return bound.address

    def _take_places(self, record: _Record, count: int) -> None:
        for _ in range(count):
            place = self._budget.take_listener(1)
            if place is None:
                raise NoRoomError(self._budget.no_listener())
            record.places.append(place)

    def _exhausted(self, record: _Record) -> None:
        """Count a client that was reset because the process has no descriptor left; log it once in a while."""
        tunnel = record.state.owner
        self._connector.meter(tunnel).count("limit")
        self._counters.failures(tunnel.id)[Reason.RESOURCES] += 1
        now = self._loop.time()
        if now - self._exhausted_logged_at >= EXHAUSTED_LOG_INTERVAL:
            self._exhausted_logged_at = now
            log.warning("%s: no descriptor left for another client: %s", tunnel.id, REMEDY)

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
            listen, lambda origin: self._connector.accept_remote(record, link, origin)
        )
        record.carrier = link

    def _with_last_port(self, record: _Record, listen: RemoteTcp | RemoteUnix) -> RemoteTcp | RemoteUnix:
        """Return the address, with the port that the server assigned last if it assigns the port."""
        last = self._ports.last(record.state.owner)
        return replace(listen, port=last) if isinstance(listen, RemoteTcp) and not listen.port and last else listen

    def _release(self, record: _Record) -> Coroutine[None, None, None]:
        """Take the remote listener, if there is one, from the record. Returns the coroutine that cancels it."""
        forward, link = record.forward, record.carrier
        record.forward = record.carrier = None
        if link is not None and not link.forwards.cancels:
            self._unreleased[record.state.key] = link
        return self._cancelling.cancel(forward, link, record.state.owner)

    async def _close(self, record: _Record) -> None:
        self._shut(record)
        await self._release(record)
        self._gone(record)

    def _shut(self, record: _Record) -> None:
        for acceptor in record.acceptors:
            try:
                acceptor.close()
            except Exception as error:  # noqa: BLE001 - the socket itself must be closed nevertheless
                self._fault_log.tell("closing an acceptor", error, subject=record.state.owner.id)
        record.acceptors.clear()
        if record.bound is not None:
            for sock in record.bound.sockets:
                self._loop.remove_reader(sock)  # does nothing unless the acceptor failed to
            record.bound.close()
            record.bound = None
        for place in record.places:
            place.give_back()
        record.places.clear()

    def _gone(self, record: _Record) -> None:
        # Another record may have the key by now: the sockets of a lost link are dropped while their tasks end.
        if self._records.get(record.state.key) is record:
            del self._records[record.state.key]
            self._budget.remove_owner(record.state.key)
            if record.state.link is not None:
                self._listener_gone(record.state.link)

    def _remember(self, record: _Record) -> None:
        self._ports.bound(record.state.owner, record.state.key.listen, record.state.bound)

    def _begin_port_file(self, record: _Record) -> asyncio.Task[None]:
        return self._begin_background(self._write_port(record), f"port file of {record.state.owner.id}")

    def _begin_background(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        """Start a background task next to the tasks of the records. `work` raises nothing."""
        task = self._loop.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def _write_port(self, record: _Record) -> None:
        """Write the owner's `portFile`; again for the new owner if it changes meanwhile."""
        owner = None
        while owner is not record.state.owner:
            owner, state = record.state.owner, record.state
            try:
                remark = await self._ports.write(owner, state.key.listen, state.bound)
            except Exception as error:  # noqa: BLE001 - the tunnel works without its file
                self._fault_log.tell("writing a port file", error, subject=owner.id)
                remark = internal("writing its `portFile`", error).message
            self._set_remark(record, remark)

    def _set_remark(self, record: _Record, remark: str) -> None:
        if remark != record.state.remark:
            record.state = replace(record.state, remark=remark)
            self._changed()

    # --- observed state ----------------------------------------------------------------------------------------

    def on_link(self, number: int) -> int:
        """Return how many listeners a link carries."""
        return sum(record.state.link == number for record in self._records.values())

    def faults(self) -> dict[str, Tries]:
        """Return by tunnel id the remote listeners whose cancel is delayed by an internal error."""
        return dict(self._cancelling.faults)

    def states(self) -> dict[SocketKey, SocketState]:
        return {key: record.state for key, record in self._records.items()}

    def prune(self, desired: Desired) -> None:
        """Drop the state of sockets and tunnels that are not desired."""
        desired_listens: set[Listen] = {tunnel.listen for tunnel in desired.tunnels.values()}
        for store in (self.tries, self._unreleased, self._refused_on):
            for key in [key for key in store if key.listen not in desired_listens]:
                del store[key]
        self._ports.prune(desired.tunnels.keys())
