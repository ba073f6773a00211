"""Which channel sends next: even shares, and small senders first."""

from __future__ import annotations

from collections import Counter

from reconciler.ssh.channels.schedule import QUANTUM, Schedule
from reconciler.ssh.channels.send_side import PACKET_MAX, SendSide
from unit.channel_ends import PEER, End, data
from unit.test_growth import assert_linear

HEAD = memoryview(bytearray(9))


def sender(schedule: Schedule[SendSide], window: int = 1 << 30) -> SendSide:
    made = SendSide()
    made.set_limits(PEER, window, PACKET_MAX)
    made.allow()
    made.wants = True
    schedule.add(made)
    return made


def sent(schedule: Schedule[SendSide], packets: int, size: int = PACKET_MAX) -> list[SendSide]:
    """Let the senders send, and return which sent each packet."""
    order = []
    for _ in range(packets):
        chosen = schedule.next()
        assert chosen is not None
        chosen.put_heads([HEAD], PACKET_MAX, min(size, chosen.sendable))
        order.append(chosen)
    return order


def test_eight_bulk_senders_share_evenly() -> None:
    schedule: Schedule[SendSide] = Schedule()
    senders = [sender(schedule) for _ in range(8)]
    each = QUANTUM // PACKET_MAX
    for _ in range(50):
        assert Counter(sent(schedule, 8 * each)) == dict.fromkeys(senders, each)


def test_packet_sizes_do_not_change_the_shares() -> None:
    schedule: Schedule[SendSide] = Schedule()
    small, large = sender(schedule), sender(schedule)
    totals = {small: 0, large: 0}
    for _ in range(20_000):
        chosen = schedule.next()
        assert chosen is not None
        size = 100 if chosen is small else PACKET_MAX
        chosen.put_heads([HEAD], PACKET_MAX, size)
        totals[chosen] += size
    assert abs(totals[small] - totals[large]) <= 2 * (QUANTUM + PACKET_MAX)


def test_a_small_sender_passes_the_bulk_of_others() -> None:
    schedule: Schedule[SendSide] = Schedule()
    for _ in range(8):
        sender(schedule)
    sent(schedule, 100)
    small = sender(schedule)
    for _ in range(100):
        assert sent(schedule, 1, 10) == [small]
        small.wants = False
        assert small not in sent(schedule, 3)
        small.wants = True
        schedule.add(small)


def test_a_sender_that_stops_and_starts_gets_its_share_and_no_more() -> None:
    schedule: Schedule[SendSide] = Schedule()
    bulk = sender(schedule)
    sly = sender(schedule)
    totals = Counter[SendSide]()
    for _ in range(1000):
        chosen = schedule.next()
        assert chosen is not None
        chosen.put_heads([HEAD], PACKET_MAX, PACKET_MAX)
        totals[chosen] += 1
        if chosen is sly:
            sly.wants = False
            schedule.next()
            sly.wants = True
            schedule.add(sly)
    assert abs(totals[bulk] - totals[sly]) <= 2


def test_a_sender_without_a_window_waits_and_returns() -> None:
    schedule: Schedule[SendSide] = Schedule()
    blocked, other = sender(schedule, window=PACKET_MAX), sender(schedule)
    sent(schedule, 1)
    assert sent(schedule, 10) == [other] * 10
    blocked.widen(PACKET_MAX, 0.0, PACKET_MAX)
    blocked.allow()
    schedule.add(blocked)
    assert sent(schedule, 1) == [blocked]
    other.wants = False
    assert schedule.next() is None


def test_the_streams_of_a_link_share_it_evenly_while_an_echo_passes() -> None:
    """Eight clients upload; another one sends a few bytes after every five packets of theirs."""
    end = End()
    bulk = [end.opened(window=1 << 30) for _ in range(8)]
    echo = end.opened(window=1 << 30)
    for handler in bulk:
        handler.write(bytes(40 * QUANTUM))
    end.packets(8)  # each is new once
    for _ in range(200):
        end.packets(5)
        echo.write(b"ping")
        assert end.packets(1) == [data(PEER, b"ping")]
    done = [40 * QUANTUM - len(handler.unsent) for handler in bulk]
    assert max(done) - min(done) <= QUANTUM + PACKET_MAX


def test_the_time_for_a_packet_does_not_grow_with_idle_channels() -> None:
    def work(count: int) -> None:
        schedule: Schedule[SendSide] = Schedule()
        for _ in range(count):
            sender(schedule).wants = False
        sender(schedule)
        sent(schedule, count)

    assert_linear(work, 4000, "idle channels")
