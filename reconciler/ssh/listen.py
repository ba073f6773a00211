"""Listening sockets of our own: binding them, and nothing else.

Owns the way an address becomes bound sockets. In: a `LocalTcp` or `LocalUnix`. Out: `Bound`, listening already (so
that a client is never refused once its tunnel is announced). Raises OSError, which failures.py translates.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import grp
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.spec import Endpoint, LocalTcp, LocalUnix

BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class Bound:
    """Sockets that listen, the address to show for them, and what to remove when they close ("" nothing)."""

    sockets: tuple[socket.socket, ...]
    address: str
    path: str
    lock: int  # a file descriptor, -1: none

    def close(self) -> None:
        """Close and remove. Closing the lock comes last: it is what keeps others from taking a live path away."""
        for sock in self.sockets:
            sock.close()
        if self.path:
            Path(self.path).unlink(missing_ok=True)
        if self.lock >= 0:
            _unlock(self.path, self.lock)


async def bind(listen: LocalTcp | LocalUnix, previous: int = 0) -> Bound:
    """Bind and listen. `previous` is a port to prefer where the choice is ours (kept across a restart)."""
    match listen:
        case LocalTcp():
            return await _bind_tcp(listen, previous)
        case LocalUnix():
            return _bind_unix(listen)


# --- TCP --------------------------------------------------------------------------------------------------------


async def _bind_tcp(listen: LocalTcp, previous: int) -> Bound:
    places = await _addresses(listen.host)
    last: OSError | None = None
    for port in _ports(listen, previous):
        try:
            return _bind_all(places, port, listen.host)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            last = error
    raise last or OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _ports(listen: LocalTcp, previous: int) -> list[int]:
    ports = list(range(listen.first, listen.last + 1))
    if previous and (listen.first == 0 or previous in ports):
        return [previous, *(port for port in ports if port != previous)]
    return ports


async def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """Every address the host means, as ssh does: a name such as localhost may be one of each IP version."""
    if host in ("*", ""):
        everywhere = [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]  # noqa: S104 - asked for by "*"
        return everywhere if socket.has_ipv6 else everywhere[:1]
    infos = await asyncio.get_running_loop().getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in infos))


def _bind_all(places: list[tuple[socket.AddressFamily, str]], port: int, host: str) -> Bound:
    """The same port on every address, or none at all; an IP version the machine lacks is left out if another works."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in places:
            try:
                sock = _listening(family, address, port)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
                continue
            sockets.append(sock)
            port = sock.getsockname()[1]
        if not sockets:
            raise missing or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return Bound(tuple(sockets), str(Endpoint(host or "*", port)), "", -1)


def _listening(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


# --- unix -------------------------------------------------------------------------------------------------------


def _bind_unix(listen: LocalUnix) -> Bound:
    """Bind a path. A socket left by a killed process is replaced; a live one never is, and neither is another file.

    The lock file beside it settles a race of two processes; it is held while the socket lives. asyncio would unlink
    a live socket without asking (DESIGN section 10).
    """
    group = _group(listen.group) if listen.group else -1
    lock = _lock(listen.path)
    try:
        _remove_stale(listen.path)
        return Bound((_listening_unix(listen, group),), listen.path, listen.path, lock)
    except OSError:
        _unlock(listen.path, lock)
        raise


def _listening_unix(listen: LocalUnix, group: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        mask = os.umask(0o177)  # private from its first moment; widened below
        try:
            sock.bind(listen.path)
        finally:
            os.umask(mask)
    except OSError:
        sock.close()
        raise
    try:
        if group >= 0:
            os.chown(listen.path, -1, group)
        Path(listen.path).chmod(listen.mode)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        Path(listen.path).unlink(missing_ok=True)
        raise
    return sock


def _lock(path: str) -> int:
    """Hold the lock file of this path. It goes with the socket: what was locked must still be what is there."""
    descriptor = os.open(_lock_file(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.lstat(_lock_file(path))):
            raise BlockingIOError  # noqa: TRY301 - its holder has just left: the next try finds it free
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path) from None
    return descriptor


def _unlock(path: str, descriptor: int) -> None:
    if not os.fstat(descriptor).st_size:  # ours have nothing in them
        Path(_lock_file(path)).unlink(missing_ok=True)
    os.close(descriptor)


def _lock_file(path: str) -> str:
    """Of a name that nobody else is likely to give: `poetry` has a `poetry.lock` beside it."""
    return str(Path(path).with_name(f".{Path(path).name}.tunnels-lock"))


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "a file that is not a socket is in the way", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # its backlog is full: somebody listens
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)


def _group(name: str) -> int:
    if name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise OSError(errno.EINVAL, f"there is no group {name}") from None
