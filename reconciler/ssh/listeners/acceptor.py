"""Accepts clients at listening sockets here, and resets them when the process is out of descriptors.

Owns the read readiness of each listening socket, and one reserve descriptor. Input: listening sockets. Output: a
`ClientSocket` and an origin for each client that `admit` gives a place; the others are reset.

The descriptor budget (`core/descriptor_budget.py`) leaves room to accept a client and to refuse it. If accept fails
nevertheless, because the system is full or the limit was lowered, the reserve is closed to accept the client and reset
it, and `exhausted` is called. (asyncio's own servers fail `backlog` times in a row, log a traceback for each, repeat
that every second, and leave the clients waiting.)

All acceptors of a loop together accept `AT_ONCE` clients in each iteration of the loop. A client costs about twenty
callbacks until it has a channel. With 64 clients in each iteration, an iteration took 100 to 300 ms (measured with
4,800 SOCKS clients in 8 seconds) and delayed every other tunnel. The other clients wait in the kernel's queue.
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
from reconciler.ssh.relay.client_socket import RESET, ClientSocket
from reconciler.system.event_loop.readiness import watcher

AT_ONCE = 4  # clients accepted in one iteration of the loop, by all acceptors together
RETRY_AFTER = 0.2  # seconds, if the reserve cannot be opened either, or the listening socket fails
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# Errors of the new connection, which Linux reports from accept (accept(2)): that client has gone.
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
    """An open descriptor that is kept so that it can be closed to accept one more client."""

    def __init__(self) -> None:
        self._descriptor = -1
        self.acquire()

    def acquire(self) -> bool:
        """Open it if it is closed. Returns False if that is not possible."""
        if self._descriptor < 0:
            try:
                self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return False
        return True

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


class _AcceptQueue:
    """The acceptors of one loop whose sockets have clients. They accept one client each in turn, `AT_ONCE` in all."""

    def __init__(self) -> None:
        self._waiting: dict[Acceptor, None] = {}  # an ordered set
        self._has_run = False  # in this turn of the loop

    def add(self, acceptor: Acceptor) -> None:
        """Queue an acceptor whose socket is ready. The selector calls this in each iteration while it is."""
        self._waiting[acceptor] = None
        if not self._has_run:  # so no other waits
            self._run(1)

    def remove(self, acceptor: Acceptor) -> None:
        self._waiting.pop(acceptor, None)

    def _run(self, count: int) -> None:
        self._has_run = True
        asyncio.get_running_loop().call_soon(self._next_turn)
        for _ in range(count):
            if not self._waiting:
                return
            acceptor = next(iter(self._waiting))
            del self._waiting[acceptor]
            if acceptor.accept():
                self._waiting[acceptor] = None

    def _next_turn(self) -> None:
        self._has_run = False
        if self._waiting:
            self._run(AT_ONCE)


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, _AcceptQueue] = WeakKeyDictionary()


class Acceptor:
    """Accepts clients at one socket until `close`, which does not close the socket.

    admit      returns the place of a new client in the budget; None: the client is reset
    accepted   called with the socket and the origin of each accepted client
    exhausted  called when a client was reset because there was no descriptor
    """

    def __init__(
        self,
        sock: socket.socket,
        reserve: ReserveDescriptor,
        *,
        admit: Callable[[Origin], ClientPlace | None],
        accepted: Callable[[ClientSocket, Origin], None],
        exhausted: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._reserve = reserve
        self._admit = admit
        self._accepted = accepted
        self._exhausted = exhausted
        self._loop = asyncio.get_running_loop()
        self._watcher = watcher()
        self._queue = _queues.setdefault(self._loop, _AcceptQueue())
        self._retry: asyncio.TimerHandle | None = None
        self._listen()

    def _listen(self) -> None:
        self._retry = None
        self._watcher.add_reader(self._sock.fileno(), self._ready)

    def _ready(self) -> None:
        self._queue.add(self)

    def close(self) -> None:
        """Accept no more clients."""
        if self._retry is not None:
            self._retry.cancel()
        self._queue.remove(self)
        self._watcher.remove_reader(self._sock.fileno())

    def accept(self) -> bool:
        """Accept one client. Returns False if there was none, or if accepting has to wait."""
        # The reserve comes first: if a client took its descriptor, the next client could not be reset.
        if not self._reserve.acquire():
            self._try_later()
            return False
        try:
            client, peer = self._sock.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            return self._accept_failed(error)
        origin = self._origin_of(peer)
        place = self._admit(origin)
        if place is None:
            _reset(client)
        else:
            client.setblocking(False)
            self._accepted(ClientSocket(client, place), origin)
        return True

    def _accept_failed(self, error: OSError) -> bool:
        """Return the result of `accept` after an error. One that may repeat at once (a firewall's EPERM) waits."""
        if error.errno in _OF_CLIENT or (error.errno in _NO_ROOM and self._reset_next()):
            return True
        self._try_later()
        return False

    def _try_later(self) -> None:
        self._queue.remove(self)
        self._watcher.remove_reader(self._sock.fileno())  # it would be reported as ready in each iteration
        self._retry = self._loop.call_later(RETRY_AFTER, self._listen)

    def _origin_of(self, peer: object) -> Origin:
        """Return the origin from the address that accept() returned: getpeername() fails after the client's reset."""
        if isinstance(peer, tuple) and len(peer) >= 2:
            return tcp_origin(*peer[:2])
        return UNIX if self._sock.family == socket.AF_UNIX else UnknownOrigin()

    def _reset_next(self) -> bool:
        """Accept the next client on the reserve and reset it. Returns False if that was not possible."""
        self._reserve.release()
        try:
            client, _ = self._sock.accept()
        except OSError as error:
            return error.errno not in _NO_ROOM  # the client has gone
        _reset(client)
        self._exhausted()
        return self._reserve.acquire()


def _reset(client: socket.socket) -> None:
    """Close a socket with RST. Setting the option fails if the client has gone already."""
    with client, contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
