"""SOCKS clients that send random bytes to a running program do no harm to it or to an unrelated tunnel."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from itertools import pairwise
from pathlib import Path

from hypothesis import strategies as st

from fuzz.attacked_program import attacked_program
from fuzz.driver import Fuzz
from fuzz.test_socks import cuts, streams
from support.sshd import Sshd

_HELD = 40  # clients that stay connected in the middle of a handshake
_PATIENCE = 10.0  # seconds


def test_clients_that_send_random_bytes_do_no_harm(fuzz: Fuzz, sshd: Sshd, tmp_path: Path) -> None:
    held: deque[socket.socket] = deque()

    with attacked_program(sshd, tmp_path) as (program, figures):

        def attack(asked: tuple[bytes, list[int], bool]) -> None:
            data, where, stays = asked
            client = socket.create_connection(("127.0.0.1", program.socks), timeout=_PATIENCE)
            _send_in_pieces(client, data, where)
            held.append(client)
            while len(held) > (_HELD if stays else 0):
                held.popleft().close()
            assert program.process.poll() is None

        fuzz.run(st.tuples(streams, cuts, st.booleans()), attack, examples=150)
        while held:
            held.pop().close()
    fuzz.figures += figures


def test_only_the_data_after_a_request_reaches_the_destination(fuzz: Fuzz, sshd: Sshd, tmp_path: Path) -> None:
    """The greeting, the request and the first data are split or joined at random."""
    with attacked_program(sshd, tmp_path) as (program, figures):

        def exchange(asked: tuple[bytes, list[int], bool]) -> None:
            payload, where, by_name = asked
            address = b"\x03\x09127.0.0.1" if by_name else b"\x01\x7f\x00\x00\x01"
            request = b"\x05\x01\x00" + b"\x05\x01\x00" + address + program.echo.to_bytes(2)
            expected = b"\x05\x00" + b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00" + payload
            with socket.create_connection(("127.0.0.1", program.socks), timeout=_PATIENCE) as client:
                _send_in_pieces(client, request + payload, where)
                assert _received(client, len(expected)) == expected
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b"", "unexpected data"

        fuzz.run(st.tuples(st.binary(max_size=3000), cuts, st.booleans()), exchange, examples=60)
    fuzz.figures += figures


def _send_in_pieces(client: socket.socket, data: bytes, where: list[int]) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in where)})
    with contextlib.suppress(ConnectionError):  # the program closed the connection
        for begin, end in pairwise(edges):
            client.sendall(data[begin:end])


def _received(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = client.recv(count - len(data))
        if not more:
            break
        data += more
    return data
