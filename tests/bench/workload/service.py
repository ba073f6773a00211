"""The destination of the benchmarks' tunnels: one thread for each client. The client's first line is its request.

`echo`: return each byte. `down N`: send N bytes. `up N`: read N bytes, answer with their SHA-256 if `check`, or `done`.
`both N`: do both at once. A separate process, so that it shares no interpreter lock with its clients.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from hashlib import sha256

BLOCK = bytes(range(256)) * 4096  # 1 MiB


def send(client: socket.socket, count: int) -> None:
    while count > 0:
        client.sendall(BLOCK if count >= len(BLOCK) else BLOCK[:count])
        count -= len(BLOCK)


def receive(client: socket.socket, count: int, *, check: bool) -> bytes:
    """Read `count` bytes. Return their SHA-256 in hex, or `done` if it is not to be checked."""
    space, digest = bytearray(len(BLOCK)), sha256()
    view = memoryview(space)
    while count > 0 and (got := client.recv_into(space, min(count, len(space)))):
        count -= got
        if check:
            digest.update(view[:got])
    return digest.hexdigest().encode() if check else b"done"


def serve(client: socket.socket) -> None:
    with client, contextlib.suppress(ConnectionError):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = b""
        while not request.endswith(b"\n"):
            if not (byte := client.recv(1)):
                return
            request += byte
        match request.decode().split():
            case ["echo"]:
                while data := client.recv(1 << 16):
                    client.sendall(data)
            case ["down", count, *_]:
                send(client, int(count))
                client.recv(1)
            case ["up", count, *check]:
                client.sendall(receive(client, int(count), check=bool(check)))
                client.recv(1)
            case ["both", count, *check]:
                sending = threading.Thread(target=send, args=(client, int(count)))
                sending.start()
                answer = receive(client, int(count), check=bool(check))
                sending.join()
                client.sendall(answer)
                client.recv(1)
            case _:
                raise ValueError(f"unknown request {request!r}")


def main() -> None:
    threading.stack_size(256 << 10)  # thousands of idle clients
    listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=1024)
    print("ready", flush=True)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


if __name__ == "__main__":
    main()
