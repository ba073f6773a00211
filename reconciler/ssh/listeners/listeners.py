"""The listening sockets, here and on the servers, and the tunnel that owns each.

Owns the tasks that open, move and close listeners. Input: the planner's Open, Close, Assign and Move. Output: the
records in `addresses`. Calls `changed` when the planner should run again, and `listener_gone` with the link that lost a
listener. `local_opener` and `remote_opener` do the work; this module records the result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace

import asyncssh

from reconciler.core import backoff
from reconciler.core.addresses import is_choice
from reconciler.core.descriptor_budget import Budget
from reconciler.core.faults import internal
from reconciler.core.observed import Failure, Reason, SocketKey, SocketPhase
from reconciler.core.spec import LocalTcp, LocalUnix, RemoteTcp, RemoteUnix, TunnelSpec
from reconciler.core.status import stands_by
from reconciler.core.subject import Subject
from reconciler.ssh.clients.connector import ClientConnector
from reconciler.ssh.errors.forwarding import UNKNOWN_SERVER
from reconciler.ssh.errors.listen_errors import from_local_listen, from_remote_listen
from reconciler.ssh.link.link import Link
from reconciler.ssh.link.remote_listeners import ListenRefusedError
from reconciler.ssh.listeners.address_records import AddressRecords, Listener
from reconciler.ssh.listeners.local_opener import LocalOpener
from reconciler.ssh.listeners.port_files import PortFiles, port_of
from reconciler.ssh.listeners.remote_opener import RemoteOpener
from reconciler.ssh.records import Records
from reconciler.system.fault_log import FaultLog


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
        records: Records,
        fault_log: FaultLog,
    ) -> None:
        self._fault_log = fault_log
        self._connector = connector
        self._budget = budget
        self._changed = changed
        self._listener_gone = listener_gone
        self._records = records
        self._loop = asyncio.get_running_loop()
        self.addresses = AddressRecords()
        self._local = LocalOpener(connector, budget=budget, records=records, fault_log=fault_log)
        self._remote = RemoteOpener(connector, changed=changed, records=records, fault_log=fault_log)
        self._port_files = PortFiles(changed=changed, fault_log=fault_log)
        self._releasing: set[asyncio.Task[None]] = set()

    # --- actions of the planner --------------------------------------------------------------------------------

    def open(self, key: SocketKey, tunnel: TunnelSpec, link: Link | None) -> None:
        listener = self.addresses.add(key, tunnel, link.number if link is not None else None)
        self._begin(listener, lambda: self._open(listener, link))

    def assign(self, key: SocketKey, tunnel: TunnelSpec) -> None:
        """Give a socket to another owner, or to the same one with other settings."""
        listener = self.addresses.listener(key)
        listener.state = replace(listener.state, owner=tunnel)
        if listener.state.phase is SocketPhase.BOUND:
            self._remember_port(listener)
            self._port_files.update(listener)

    def move(self, key: SocketKey, link: Link) -> None:
        """Move a remote listener to another link. The cancel and the new request are sent together."""
        listener = self.addresses.listener(key)
        listener.state = replace(listener.state, phase=SocketPhase.OPENING, link=link.number)
        self._begin(listener, lambda: self._move(listener, link))

    def close(self, key: SocketKey) -> None:
        """Stop listening now, and reject the clients that have no channel yet."""
        listener = self.addresses.listener(key)
        self._connector.reject_waiting(listener)
        listener.state = replace(listener.state, phase=SocketPhase.CLOSING)
        if listener.task is not None:
            return  # the running task sees the phase when it ends
        self._begin(listener, lambda: self._close(listener))

    def link_gone(self, number: int) -> None:
        """Drop the listeners of a link that has ended, and the refusals on it: another link is tried at once."""
        for address in self.addresses.all():
            if address.refused_on == number:
                address.tries = address.refused_on = None
            if address.listener is not None and address.listener.state.link == number:
                if address.listener.task is not None:
                    address.listener.task.cancel()
                self._drop(address.listener)
            self.addresses.drop_unused(address)

    async def abort_all(self) -> None:
        """Close everything now."""
        listeners = self.addresses.listeners()
        tasks = [listener.task for listener in listeners if listener.task is not None] + [*self._releasing]
        for listener in listeners:
            self._connector.reject_waiting(listener)
            self._local.shut(listener)
            self._drop(listener)
        for task in tasks:
            task.cancel()
        self._local.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._port_files.close()

    # --- carrying out actions ----------------------------------------------------------------------------------

    def _begin(self, listener: Listener, work: Callable[[], Coroutine[None, None, None]]) -> None:
        # The coroutine is created inside the task: Python warns about one that was cancelled before its first step.
        async def supervised() -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - an error of one listener must not end the others
                await self._abandon(listener, error)
            finally:
                self._changed()

        listener.task = self._loop.create_task(supervised(), name=f"socket {listener.state.owner.id}")

    async def _abandon(self, listener: Listener, error: Exception) -> None:
        """Count an internal error as a failed try, and close what was opened so that the next try can succeed."""
        self._fault_log.tell("listening", error, subject=Subject("tunnel", listener.state.owner.id))
        self._count_failure(listener, internal("listening", error))
        await self._close(listener)

    async def _open(self, listener: Listener, link: Link | None) -> None:
        listen = listener.state.key.listen
        try:
            if isinstance(listen, (LocalTcp, LocalUnix)):
                bound = await self._local.open(listener, listen)
            else:
                assert link is not None
                bound = await self._remote.open(listener, listen, link)
        except (OSError, asyncssh.Error, ListenRefusedError) as error:
            self._local.shut(listener)
            self._count_failure(listener, _failure(listener, error))
            self._gone(listener)
        else:
            await self._opened(listener, bound)

    async def _move(self, listener: Listener, link: Link) -> None:
        listen = listener.state.key.listen
        assert isinstance(listen, RemoteTcp | RemoteUnix)
        releasing = self._remote.release(listener)
        released = self._loop.create_task(releasing, name=f"cancel {listener.state.owner.id}")
        self._releasing.add(released)
        released.add_done_callback(self._releasing.discard)
        await self._remote.request_moved(listener, listen, link, released)
        await self._open(listener, link)

    def _count_failure(self, listener: Listener, failure: Failure) -> None:
        address, owner = listener.address, listener.state.owner
        address.tries = backoff.failed(address.tries, failure, self._loop.time(), None, "")
        address.refused_on = listener.state.link
        if not stands_by(owner, failure):
            self._records.tunnel(owner.id).failures[failure.reason] += 1

    async def _opened(self, listener: Listener, bound: str) -> None:
        listener.address.clear_history()
        listener.state = replace(listener.state, bound=bound)
        self._remember_port(listener)
        # Before it is reported as bound: a program that waits for the tunnel then finds its port in the file.
        await self._port_files.updated(listener)
        listener.task = None
        if listener.state.phase is SocketPhase.CLOSING:
            await self._close(listener)
            return
        listener.state = replace(listener.state, phase=SocketPhase.BOUND)
        self._budget.add_owner(listener.state.key)

    def _remember_port(self, listener: Listener) -> None:
        """Remember the port of a bound socket, if it was assigned rather than configured."""
        if is_choice(listener.state.key.listen):
            self._records.tunnel(listener.state.owner.id).assigned_port = port_of(listener.state.bound)

    async def _close(self, listener: Listener) -> None:
        self._local.shut(listener)
        await self._remote.release(listener)
        self._gone(listener)

    def _gone(self, listener: Listener) -> None:
        # Another listener may be there by now: those of a lost link are dropped while their tasks end.
        if listener.address.listener is listener:
            self._drop(listener)
            if listener.state.link is not None:
                self._listener_gone(listener.state.link)

    def _drop(self, listener: Listener) -> None:
        listener.address.listener = None
        self.addresses.drop_unused(listener.address)
        self._budget.remove_owner(listener.state.key)


def _failure(listener: Listener, error: OSError | asyncssh.Error | ListenRefusedError) -> Failure:
    """Return why a listener could not be opened."""
    listen, unreleased = listener.state.key.listen, listener.address.unreleased
    if isinstance(listen, LocalTcp | LocalUnix):
        return from_local_listen(error, str(listen))
    if isinstance(error, ListenRefusedError):
        failure = from_remote_listen(
            error,
            listen,
            error.server,
            said=error.debug_text,
            why=error.answer_text,
            supported=error.is_supported,
        )
    else:
        failure = from_remote_listen(error, listen, UNKNOWN_SERVER)
    if failure.reason is Reason.REMOTE_PORT_IN_USE and unreleased is not None and not unreleased.gone:
        text = "this server releases a port only when the old connection ends, after its last client"
        failure = replace(failure, what=f"{failure.what}; {text}")
    return failure
