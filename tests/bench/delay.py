"""A network namespace behind a path with a delay: a process copies packets between two TUN devices.

Not `tc netem`, which not every kernel has. TCP sees the round trip, so its windows and its slow start are those of a
long path. The packets are large, because each costs a turn of the copying process.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Self

from support.netns import Namespace
from support.processes import tied_to_parent

MTU = 9000
BUFFER_MAX = 64 << 20  # bytes of a TCP socket in the namespace
QUEUE = 10_000  # packets that the kernel keeps while the copying process is busy
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


class DelayedNamespace(Namespace):
    """A namespace whose packets take `seconds` each way."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._far = f"{self._device}b"

    @staticmethod
    def possible() -> bool:
        return Namespace.possible() and os.access("/dev/net/tun", os.R_OK | os.W_OK)

    def __enter__(self) -> Self:
        _run("ip", "netns", "add", self.name)
        command = [sys.executable, __file__, self._device, self._far, str(self._seconds)]
        self._copying = subprocess.Popen(tied_to_parent(command), stdout=subprocess.PIPE)
        try:
            assert self._copying.stdout is not None
            assert self._copying.stdout.readline() == b"ready\n"
            _run("ip", "link", "set", self._far, "netns", self.name)
            _set_up([], self._device, self.here, self.there)
            _set_up(["ip", "netns", "exec", self.name], self._far, self.there, self.here)
            self._inside("ip", "link", "set", "lo", "up")
            for name in ("tcp_rmem", "tcp_wmem"):  # with Linux' usual 4 MiB, plain TCP moves no more than `ssh -L` here
                self._inside("sysctl", "-qw", f"net.ipv4.{name}=4096 131072 {BUFFER_MAX}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._copying.kill()
        self._copying.communicate()
        _run("ip", "netns", "del", self.name)


def _set_up(inside: list[str], device: str, address: str, peer: str) -> None:
    _run(*inside, "ip", "address", "add", address, "peer", peer, "dev", device)
    _run(*inside, "ip", "link", "set", device, "mtu", str(MTU), "txqueuelen", str(QUEUE), "up")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


# --- the copying process --------------------------------------------------------------------------------------------


def opened(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


def copy(near: int, far: int, seconds: float) -> None:
    """Copy packets between the devices for ever, each `seconds` late."""
    other = {near: far, far: near}
    late = {near: deque[tuple[float, bytes]](), far: deque[tuple[float, bytes]]()}  # by the device to write to
    poll = select.poll()
    for device in other:
        poll.register(device, select.POLLIN)
    while True:
        first = min((queue[0][0] for queue in late.values() if queue), default=None)
        wait = None if first is None else max(0.0, (first - time.monotonic()) * 1000)
        for device, _ in poll.poll(wait):
            while packet := read(device):
                late[other[device]].append((time.monotonic() + seconds, packet))
                if len(late[other[device]]) % 64 == 0:
                    break  # write what is due meanwhile
        now = time.monotonic()
        for device, queue in late.items():
            while queue and queue[0][0] <= now:
                write(device, queue.popleft()[1])


def read(device: int) -> bytes:
    try:
        return os.read(device, MTU + 100)
    except OSError:  # nothing to read, or the device is not up yet
        return b""


def write(device: int, packet: bytes) -> None:
    try:
        os.write(device, packet)
    except OSError:
        return  # the device is not up yet: the packet is lost


if __name__ == "__main__":
    Path("/proc/self/comm").write_text("delay")
    devices = opened(sys.argv[1]), opened(sys.argv[2])
    print("ready", flush=True)
    copy(*devices, float(sys.argv[3]))
