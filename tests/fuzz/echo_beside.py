"""Measures round trips through two paths to one echo service, every few milliseconds, as a separate process.

Run as `python echo_beside.py ECHO_PORT`: serves the echo on that port and says so. A line `PORT PORT` on standard input
names the two paths; round trips go on until standard input is closed; then the times, in seconds, come as JSON:
{"tunnel": [...], "control": [...]}. Each pair was made one right after the other.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time

_EVERY = 0.004  # seconds
_WITHIN = 30.0
_MESSAGE = bytes(64)


def serve(listener: socket.socket, parent: int) -> None:
    """Echo until the parent process ends and so closes its end of the pipe `parent`."""
    clients = {listener.fileno(): listener}
    while parent not in (ready := select.select([parent, *clients], [], [])[0]):
        for number in ready:
            if number == listener.fileno():
                client, _ = listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                clients[client.fileno()] = client
            elif not _echoed(clients[number]):
                clients.pop(number).close()


def _echoed(client: socket.socket) -> bool:
    """Send back the received data. Return False if the client has left."""
    try:
        data = client.recv(65536)
        client.sendall(data)
    except OSError:
        return False
    return bool(data)


def connected(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=_WITHIN)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def round_trip(path: socket.socket) -> float:
    begin, left = time.perf_counter(), len(_MESSAGE)
    path.sendall(_MESSAGE)
    while left:
        data = path.recv(left)
        if not data:
            raise ConnectionError("the path has ended")
        left -= len(data)
    return time.perf_counter() - begin


def main() -> None:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    alive, held = os.pipe()
    if os.fork() == 0:
        os.close(held)
        serve(listener, alive)
        os._exit(0)
    listener.close()
    print("ready", flush=True)
    tunnel, control = map(connected, map(int, sys.stdin.readline().split()))
    times: dict[str, list[float]] = {"tunnel": [], "control": []}
    is_over = False
    while not is_over:
        times["tunnel"].append(round_trip(tunnel))
        times["control"].append(round_trip(control))
        is_over = bool(select.select([sys.stdin], [], [], _EVERY)[0])
    print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
