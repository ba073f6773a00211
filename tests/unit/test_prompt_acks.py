"""When bytes are acknowledged at once: learnt from a wait, kept up while it helps, given up when it does not."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest

from reconciler.system.event_loop.prompt_acks import EAGER, WAIT, PromptAcks

_UNACKED = 24  # offset of tcpi_unacked in TCP_INFO (linux/tcp.h): packets on their way


class Counting:
    """A socket that counts the acknowledgements."""

    def __init__(self, family: int = socket.AF_INET) -> None:
        self.family = family
        self.count = 0

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        assert (level, option, value) == (socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        self.count += 1


def read(acks: PromptAcks, now: float, *, answered: bool = False) -> None:
    """Do what a packet path does for a read."""
    acks.arrived(now)
    if answered:
        acks.is_due = False
    if acks.eager and acks.is_due:
        acks.acknowledge()


def test_nothing_is_acknowledged_at_once_without_a_wait() -> None:
    sock = Counting()
    acks, now = PromptAcks(sock), 1.0
    for _ in range(100):
        read(acks, now)  # small packets that follow each other
        now += WAIT / 10
        read(acks, now, answered=True)
        now += 1.0
    assert sock.count == 0


def test_after_a_wait_it_goes_on_while_it_brings_more_bytes() -> None:
    sock = Counting()
    acks, now = PromptAcks(sock), 1.0
    read(acks, now)
    now += 0.04
    read(acks, now)
    assert sock.count == 1
    for count in range(5 * EAGER):
        now += 0.0001
        read(acks, now)
        assert sock.count == count + 2


def test_it_ends_if_bytes_only_come_after_something_was_sent() -> None:
    sock = Counting()
    acks, now = PromptAcks(sock), 1.0
    read(acks, now)
    now += 0.04
    for _ in range(5 * EAGER):
        read(acks, now)
        acks.is_due = False  # something is sent before the next bytes arrive
        now += 0.0001
    assert sock.count == EAGER


def test_what_is_answered_is_not_acknowledged() -> None:
    sock = Counting()
    acks = PromptAcks(sock)
    read(acks, 1.0)
    read(acks, 1.04, answered=True)
    assert sock.count == 0


def test_a_unix_socket_needs_no_acknowledgement() -> None:
    sock = Counting(socket.AF_UNIX)
    acks = PromptAcks(sock)
    read(acks, 1.0)
    read(acks, 1.04)
    assert sock.count == 0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as near:
        far, _ = listener.accept()
        with far:
            yield near, far


def test_the_kernel_sends_the_acknowledgement(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)  # a new connection acknowledges at once
    far.send(b"x")
    near.recv(1)
    acks = PromptAcks(near)
    acks.eager = 1
    acks.acknowledge()
    # Loopback delivers it within the call. By itself the kernel waits 40 ms.
    assert struct.unpack_from("=I", far.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64), _UNACKED) == (0,)


def test_the_end_of_the_connection_is_no_error(pair: tuple[socket.socket, socket.socket]) -> None:
    near, _ = pair
    acks = PromptAcks(near)
    acks.eager = 1
    with contextlib.closing(near):
        pass
    acks.acknowledge()
    acks.arrived(1.0)
    acks.arrived(2.0)
    assert acks.eager == 0
