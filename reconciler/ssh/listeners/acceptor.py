"""Accepts clients at our listening sockets, also when no descriptor is left for one.

Owns the readiness of each listening socket, and one spare descriptor for the process. In: sockets that listen. Out: a
`ClientTransport` and an origin for each client that `admit` gives a place; the others are reset.

The budget of descriptors (`core.budget`) leaves room to accept a client and to refuse it. Where accept fails all the
same, because the system is full or the limit was lowered, the spare is closed to accept the client and reset it, and
`crowded` is called. (asyncio's own servers then fail `backlog` times in a row, log each with a traceback, every second
again, and leave the clients waiting.)

All acceptors of a loop together accept `AT_ONCE` clients in each turn of the loop. A client costs about twenty
callbacks until it has a channel. With 64 clients in each turn, turns took 100 to 300 ms (measured with 4,800 SOCKS
clients in 8 seconds), and every other tunnel waited for them. Clients that wait stay in the kernel's queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from weakref import WeakKeyDictionary

from reconciler.core.descriptor_budget import ClientPlace
from reconciler.core.rules.origin import UNIX, Origin, UnknownOrigin, tcp_origin
from reconciler.ssh.relay.client_transport import RESET, ClientTransport

AT_ONCE = 4  # clients accepted in one turn of the loop, by all acceptors together
RETRY_AFTER = 0.2  # seconds, where not even the spare can be had, or the listening socket is at fault
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# Errors of the new connection, which Linux reports by accept (accept(2)): that client has gone.
_OF_CLIENT = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPROTO,
        errno.ENOPROTOOPT,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ETIMEDOUT,
        *({errno.ENONET} if hasattr(errno, "ENONET") else ()),  # Linux only
    }
)


class ReserveDescriptor:
    """A descriptor that is kept only to be given up."""

    def __init__(self) -> None:
        self._descriptor = -1
        self.take_back()

    def take_back(self) -> bool:
        """Have it again. Whether that was possible."""
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return False
        return True

    def give_up(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


class _Turns:
    """The acceptors of one loop that have clients to accept. Each accepts one, in turn, `AT_ONCE` in all."""

    def __init__(self) -> None:
        self._waiting: dict[Acceptor, None] = {}  # an ordered set
        self._scheduled = False

    def ask(self, acceptor: Acceptor) -> None:
        """Its socket is ready. The selector says so in each turn, as long as it is."""
        self._waiting[acceptor] = None
        self._schedule()

    def leave(self, acceptor: Acceptor) -> None:
        self._waiting.pop(acceptor, None)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        for _ in range(AT_ONCE):
            if not self._waiting:
                return
            acceptor = next(iter(self._waiting))
            del self._waiting[acceptor]
            if acceptor.accept():
                self._waiting[acceptor] = None
        if self._waiting:
            self._schedule()


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, _Turns] = WeakKeyDictionary()


class Acceptor:
    """Accepts clients at one socket until `close`, which leaves the socket itself open.

    `admit` returns the place of a new client in the budget; None: the client is reset.
    """

    def __init__(
        self,
        sock: socket.socket,
        spare: ReserveDescriptor,
        *,
        admit: Callable[[Origin], ClientPlace | None],
        accepted: Callable[[ClientTransport, Origin], None],
        crowded: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._spare = spare
        self._admit = admit
        self._accepted = accepted
        self._crowded = crowded
        self._loop = asyncio.get_running_loop()
        self._turns = _turns.setdefault(self._loop, _Turns())
        self._tasks: set[asyncio.Task[object]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._listen()

    def _listen(self) -> None:
        self._retry = None
        self._loop.add_reader(self._sock, self._turns.ask, self)

    def close(self) -> None:
        """Take nobody in any more."""
        if self._retry is not None:
            self._retry.cancel()
        self._turns.leave(self)
        self._loop.remove_reader(self._sock)

    def accept(self) -> bool:
        """Accept one client, if there is one. False: there was none, or accepting has to wait."""
        # The spare comes first: a client taken in on its place would leave nothing to tell the next ones with.
        if not self._spare.take_back():
            self._try_later()
            return False
        try:
            client, peer = self._sock.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            return self._failed(error)
        origin = self._origin_of(peer)
        place = self._admit(origin)
        if place is None:
            _reset(client)
        else:
            self._take_in(client, origin, place)
        return True

    def _failed(self, error: OSError) -> bool:
        """What `accept` returns after this error. One that may come again at once (a firewall's EPERM) has to wait."""
        if error.errno in _OF_CLIENT or (error.errno in _NO_ROOM and self._send_away()):
            return True
        self._try_later()
        return False

    def _try_later(self) -> None:
        self._turns.leave(self)
        self._loop.remove_reader(self._sock)  # it would be ready again and again
        self._retry = self._loop.call_later(RETRY_AFTER, self._listen)

    def _origin_of(self, peer: object) -> Origin:
        """From what accept() said: a client that has reset its connection since has no getpeername() any more."""
        if self._sock.family == socket.AF_UNIX:
            return UNIX
        return tcp_origin(*peer[:2]) if isinstance(peer, tuple) and len(peer) >= 2 else UnknownOrigin()

    def _take_in(self, client: socket.socket, origin: Origin, place: ClientPlace) -> None:
        client.setblocking(False)
        making = self._loop.connect_accepted_socket(
            lambda: ClientTransport(lambda near: self._accepted(near, origin), place), client
        )
        task: asyncio.Task[object] = self._loop.create_task(making)
        self._tasks.add(task)

        def made(task: asyncio.Task[object]) -> None:
            self._tasks.discard(task)
            if task.cancelled() or task.exception() is not None:  # no transport owns the socket
                client.close()
                place.give_back()

        task.add_done_callback(made)

    def _send_away(self) -> bool:
        """Tell the next client that there is no room. False: there is not even room for that."""
        self._spare.give_up()
        try:
            client, _ = self._sock.accept()
        except OSError as error:
            return error.errno not in _NO_ROOM  # it has left
        _reset(client)
        self._crowded()
        return self._spare.take_back()


def _reset(client: socket.socket) -> None:
    """Close it with RST. It may have left already, and have no options any more."""
    with client, contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
