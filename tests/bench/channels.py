"""Packets a second of CPU time through the channels of one link, without IO and without ciphers.

Run it with `PYTHONPATH=tests python -m bench.channels`. It shows what the channel layer itself costs: a link at 1 GB/s
moves 30,000 full packets a second. The handler takes each packet's data at once and has data for each buffer, without
copying it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from reconciler.ssh.channels import messages
from reconciler.ssh.channels.channel import Channel
from reconciler.ssh.channels.handler import ChannelHandler
from reconciler.ssh.channels.messages import HEAD, DirectTcp, Packet
from reconciler.ssh.channels.mux import Mux, Refusal
from reconciler.ssh.channels.send_side import PACKET_MAX
from reconciler.ssh.channels.window import WindowBudget

PACKETS, ROUNDS = 30_000, 5
WORD_MAX = 0xFFFFFFFF


class Taker(ChannelHandler):
    """Takes all data, and always has data to send."""

    channel: Channel

    def data(self, data: memoryview) -> None:
        self.channel.take(len(data))

    def read(self, space: Sequence[memoryview]) -> int:
        return sum(map(len, space))

    def opened(self) -> None:
        pass

    def open_failed(self, code: int, reason: str) -> None:
        pass

    def eof(self) -> None:
        pass

    def closed(self, reason: str) -> None:
        pass

    def gone(self) -> None:
        pass


def main() -> None:
    for channels in (1, 8, 1000):
        print(f"{channels} channels")
        for size in (100, PACKET_MAX):
            rate(f"  received, {size} bytes each", PACKETS, lambda at=channels, of=size: receive(at, of))  # type: ignore[misc]
        rate(f"  sent, {PACKET_MAX} bytes each", PACKETS, lambda at=channels: send(at))  # type: ignore[misc]
    rate("opened, confirmed and closed", PACKETS // 10, lambda: open_and_close(PACKETS // 10))


_ROOMS = [memoryview(bytearray(HEAD + PACKET_MAX)) for _ in range(4)]


def rate(what: str, count: int, run: Callable[[], float]) -> None:
    median = statistics.median(run() for _ in range(ROUNDS))
    print(f"{what}: {count / median:,.0f} a second, {median / count * 1e6:.2f} us each")


def link(channels: int) -> tuple[Mux, list[Taker]]:
    mux = Mux(lambda: None, lambda *_: Refusal(messages.OpenError.PROHIBITED, ""), WindowBudget(total=1 << 30))
    return mux, [opened(mux) for _ in range(channels)]


def opened(mux: Mux) -> Taker:
    taker = Taker()
    taker.channel = mux.open(DirectTcp("web", 80, "127.0.0.1", 1), taker)
    number = taker.channel.number
    mux.receive(memoryview(messages.open_confirmation(number, number, WORD_MAX, PACKET_MAX)))
    mux.outbox.write_packets(_ROOMS)
    return taker


def receive(channels: int, size: int) -> float:
    """Return the CPU seconds to receive PACKETS packets, with the adjustments of the windows that they cause."""
    mux, takers = link(channels)
    payloads = []
    for taker in takers:
        payload = memoryview(bytearray(HEAD + size))
        messages.put_head(payload, 0, taker.channel.number, size)
        payloads.append(payload)
    began = time.process_time()
    for _ in range(PACKETS // channels):
        mux.now += 0.0001
        for payload in payloads:
            assert mux.receive_data(payload)
        while mux.outbox.write_packets(_ROOMS):
            pass
    return time.process_time() - began


def send(channels: int) -> float:
    """Return the CPU seconds to write PACKETS packets."""
    mux, takers = link(channels)
    for taker in takers:
        taker.channel.ready()
    began = time.process_time()
    written = 0
    while written < PACKETS:
        written += len(mux.outbox.write_packets(_ROOMS))
    return time.process_time() - began


def open_and_close(count: int) -> float:
    mux, _ = link(0)
    began = time.process_time()
    for _ in range(count):
        taker = opened(mux)
        taker.channel.close()
        mux.receive(memoryview(messages.short(Packet.CLOSE, taker.channel.number)))
        while mux.outbox.write_packets(_ROOMS):
            pass
    return time.process_time() - began


if __name__ == "__main__":
    main()
