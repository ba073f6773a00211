"""A client of the benchmarks, as a process: `client.py TASK PORT SOCKS_TO NUMBERS...`. Prints its result as JSON.

`move WAY BYTES STREAMS CHECK`: seconds until all streams are done, and those of each. `flood WAY STREAMS`: move without
end, print `ready` when data flows. `ping SECONDS`: round trips in seconds. `connect SECONDS AT_ONCE`: connections, each
with one byte there and back, in a second. `hold CLIENTS VERB`: print `ready` when that many clients have a byte.
SOCKS_TO is the port to ask a SOCKS server for, or 0 without one.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from hashlib import sha256

BLOCK = bytes(range(256)) * 4096  # as the service sends
FOREVER = 1 << 60  # bytes
BATCH = 100  # clients
RECEIVE_BUFFER = 32 << 10  # bytes of each held client: thousands of full ones starve the kernel
FLOWS = 16 << 20  # bytes of a flood until it is `ready`


class Clients:
    """Connects to a forwarder, through SOCKS5 if `socks_to` is a port."""

    def __init__(self, port: int, socks_to: int) -> None:
        self._port, self._socks_to = port, socks_to

    def connect(self, request: str = "") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self._port), timeout=120)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._socks_to:
            client.sendall(b"\x05\x01\x00")
            exactly(client, 2)
            client.sendall(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + struct.pack("!H", self._socks_to))
            exactly(client, 10)
        if request:
            client.sendall(request.encode() + b"\n")
        return client


def exactly(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        if not (got := client.recv(count - len(data))):
            raise ConnectionResetError(f"the forwarder closed after {len(data)} of {count} bytes")
        data += got
    return data


class Stream:
    """One connection that moves bytes."""

    def __init__(self, clients: Clients, way: str, count: int, *, check: bool) -> None:
        self.moved = 0
        self._way, self._count, self._check = way, count, check
        self._client = clients.connect(f"{way} {count}{' check' * check}")

    def move(self) -> None:
        if self._way == "down":
            self._receive()
        elif self._way == "up":
            self._send()
        else:
            sending = threading.Thread(target=self._send)
            sending.start()
            self._receive()
            sending.join()
        if self._way != "down":
            expected = checksum(self._count).encode() if self._check else b"done"
            if exactly(self._client, len(expected)) != expected:
                raise SystemExit("the bytes that arrived are not those that were sent")

    def _send(self) -> None:
        count = self._count
        while count > 0:
            self._client.sendall(BLOCK if count >= len(BLOCK) else BLOCK[:count])
            count -= len(BLOCK)
            self.moved += len(BLOCK)

    def _receive(self) -> None:
        space, digest, count = bytearray(len(BLOCK)), sha256(), self._count
        view = memoryview(space)
        while count > 0:
            if not (got := self._client.recv_into(space, min(count, len(space)))):
                raise SystemExit(f"{count} of {self._count} bytes did not arrive")
            count -= got
            self.moved += got
            if self._check:
                digest.update(view[:got])
        if self._check and digest.hexdigest() != checksum(self._count):
            raise SystemExit("the bytes that arrived are not those that were sent")


def checksum(count: int) -> str:
    digest = sha256()
    while count > 0:
        digest.update(BLOCK if count >= len(BLOCK) else BLOCK[:count])
        count -= len(BLOCK)
    return digest.hexdigest()


def move(clients: Clients, way: str, count: int, streams: int, check: int) -> dict[str, object]:
    made = [Stream(clients, way, count // streams, check=bool(check)) for _ in range(streams)]
    each = [0.0] * streams
    began = time.perf_counter()

    def run(number: int) -> None:
        made[number].move()
        each[number] = time.perf_counter() - began

    in_threads(run, streams)
    if not all(each):
        raise SystemExit("a stream failed")
    return {"seconds": max(each), "each": each}


def flood(clients: Clients, way: str, streams: int) -> dict[str, object]:
    made = [Stream(clients, way, FOREVER, check=False) for _ in range(streams)]
    for one in made:
        threading.Thread(target=one.move, daemon=True).start()
    while sum(one.moved for one in made) < FLOWS:
        time.sleep(0.001)
    print("ready", flush=True)
    sys.stdin.read()
    return {}


def ping(clients: Clients, seconds: float) -> dict[str, object]:
    with clients.connect("echo") as client:
        taken = list[float]()
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            client.sendall(b"x")
            exactly(client, 1)
            taken.append(time.perf_counter() - began)
    return {"round_trips": sorted(taken[len(taken) // 20 :])}  # the first ones warm the path up


def connect(clients: Clients, seconds: float, at_once: int) -> dict[str, object]:
    counts, until = [0] * at_once, time.perf_counter() + seconds

    def run(number: int) -> None:
        while time.perf_counter() < until:
            with clients.connect("echo") as client:
                client.sendall(b"x")
                exactly(client, 1)
            counts[number] += 1

    began = time.perf_counter()
    in_threads(run, at_once)
    return {"per_second": sum(counts) / (time.perf_counter() - began)}


def hold(clients: Clients, count: int, verb: str) -> dict[str, object]:
    request = "echo\nx" if verb == "echo" else f"{verb} {FOREVER}"
    held = list[socket.socket]()
    while len(held) < count:  # in batches: a burst of thousands would measure timeouts
        new = [clients.connect() for _ in range(min(BATCH, count - len(held)))]
        for client in new:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            client.sendall(f"{request}\n".encode())
        for client in new:
            exactly(client, 1)
        held += new
    print("ready", flush=True)
    sys.stdin.read()
    return {}


def in_threads(run: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    task, port, socks_to, *rest = sys.argv[1:]
    clients = Clients(int(port), int(socks_to))
    match task, rest:
        case "move", [way, count, streams, check]:
            result = move(clients, way, int(count), int(streams), int(check))
        case "flood", [way, streams]:
            result = flood(clients, way, int(streams))
        case "ping", [seconds]:
            result = ping(clients, float(seconds))
        case "connect", [seconds, at_once]:
            result = connect(clients, float(seconds), int(at_once))
        case "hold", [count, verb]:
            result = hold(clients, int(count), verb)
        case other:
            raise SystemExit(f"unknown task {other}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
