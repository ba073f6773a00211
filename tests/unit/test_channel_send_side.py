"""How much of the peer's window is used: all of it at first, and then as much as may be on its way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reconciler.ssh.channels.messages import HEAD
from reconciler.ssh.channels.send_side import AHEAD_RATE, PACKET_MAX, SendSide

MIB = 1 << 20
AHEAD = 256 << 10
BUFFER = memoryview(bytearray(HEAD))


def opened(window: int) -> SendSide:
    side = SendSide()
    side.set_limits(1, window, PACKET_MAX)
    side.allow()
    return side


def sent(side: SendSide) -> int:
    """Send all that may be sent, and return how much that was."""
    total = 0
    while count := side.sendable:
        side.put_heads([BUFFER], count, count)
        total += count
    return total


def widened(side: SendSide, count: int, delay: float = 0.0, ahead: int = AHEAD) -> SendSide:
    assert side.widen(count, delay, ahead)
    side.allow()
    return side


def test_the_first_window_is_used_whole() -> None:
    assert sent(opened(2 * MIB)) == 2 * MIB


def test_little_is_on_its_way_to_a_peer_that_adjusts_often() -> None:
    side, part = opened(2 * MIB), 96 << 10
    on_its_way = sent(side)
    for _ in range(100):
        more = sent(widened(side, part))
        assert more >= part // 2
        on_its_way += more - part
    assert on_its_way == AHEAD


def test_the_whole_window_is_used_while_it_may_be_on_its_way() -> None:
    side, part = opened(2 * MIB), 96 << 10
    sent(side)
    for _ in range(100):
        assert sent(widened(side, part, ahead=2 * MIB)) == part


def test_what_is_on_its_way_follows_what_may_be() -> None:
    side, part = opened(2 * MIB), 96 << 10
    on_its_way = sent(side)
    for ahead in (2 * MIB, AHEAD, MIB, AHEAD, 2 * MIB):
        for _ in range(100):
            on_its_way += sent(widened(side, part, ahead=ahead)) - part
        assert on_its_way == ahead


def test_enough_is_on_its_way_for_the_next_adjustment() -> None:
    side, part = opened(2 * MIB), 96 << 10
    on_its_way = sent(side)
    for _ in range(100):
        on_its_way += sent(widened(side, part, ahead=0)) - part
    assert on_its_way == part * 5 // 4


def test_a_peer_that_has_made_its_window_smaller_can_go_on_after_a_reduction() -> None:
    side, window = opened(2 * MIB), 16 << 10
    sent(side)
    sent(widened(side, window, ahead=2 * MIB))
    for _ in range(100):
        used = sent(widened(side, window))
        assert used >= 4 << 10
        window = used


def test_a_long_path_is_used_whole() -> None:
    side, part, delay = opened(2 * MIB), 96 << 10, 2 * MIB / AHEAD_RATE
    sent(side)
    for _ in range(100):
        assert sent(widened(side, part, delay)) == part


def test_a_peer_may_make_its_window_smaller() -> None:
    """It gives back half of what it took, down to a window of 16 KiB, and adjusts after a quarter of it."""
    side, window = opened(2 * MIB), 2 * MIB
    used = sent(side)
    while window > 16 << 10:
        window -= used // 2
        used = sent(widened(side, used - used // 2))
    for _ in range(100):
        used = sent(widened(side, used))
        assert used >= 4 << 10


@given(window=st.integers(1, 8 * MIB), share=st.floats(0.01, 1), packets=st.integers(1, 200))
def test_a_peer_that_adjusts_after_a_part_of_its_window_never_stalls(window: int, share: float, packets: int) -> None:
    """It adjusts when it has taken at least that part since the last time."""
    part = max(1, int(window * share))
    side = opened(window)
    for _ in range(packets):
        taken = sent(side)
        assert taken >= part
        widened(side, taken)
