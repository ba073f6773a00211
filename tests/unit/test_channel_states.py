"""Every packet and every call in every state of a channel."""

from __future__ import annotations

import itertools

import pytest

from reconciler.ssh.channels import messages
from reconciler.ssh.channels.messages import OpenError, Packet
from reconciler.ssh.channels.send_side import PACKET_MAX
from reconciler.ssh.channels.states import CALLED, RECEIVED, Call, ChannelState
from unit.channel_ends import PEER, WEB, WINDOW, End, Recorder, data, packet_of

S, P = ChannelState, Packet
KINDS: list[Packet] = [kind for kind in Packet if kind is not P.OPEN]  # a request for a channel names no channel

# The next state, the packets sent, the calls of the handler.
Outcome = tuple[ChannelState, list[Packet], list[str]]
VIOLATION: Outcome = (S.CLOSING, [P.CLOSE], ["closed"])


def stays(state: ChannelState, *calls: str) -> Outcome:
    return (state, [], list(calls))


def while_open(state: ChannelState, *, eof: ChannelState | None) -> dict[Packet, Outcome]:
    """What packets do in an open state. `eof`: the state after EOF, None if the peer has sent it."""
    after: dict[Packet, Outcome] = {
        P.OPEN_CONFIRMATION: VIOLATION,
        P.OPEN_FAILURE: VIOLATION,
        P.WINDOW_ADJUST: stays(state),
        P.DATA: stays(state, "data"),
        P.EXTENDED_DATA: stays(state),
        P.CLOSE: (S.CLOSED, [P.CLOSE], ["closed"]),
        P.REQUEST: (state, [P.FAILURE], []),
        P.SUCCESS: stays(state),
        P.FAILURE: stays(state),
    }
    if eof is None:
        return after | dict.fromkeys((P.DATA, P.EXTENDED_DATA, P.EOF), stays(state))
    return after | {P.EOF: stays(eof, "eof")}


PACKETS: dict[ChannelState, dict[Packet, Outcome]] = {
    S.OPENING: dict.fromkeys(KINDS, stays(S.ABANDONED, "open_failed"))
    | {P.OPEN_CONFIRMATION: stays(S.OPEN, "opened"), P.OPEN_FAILURE: stays(S.CLOSED, "open_failed")},
    S.ABANDONED: dict.fromkeys(KINDS, stays(S.ABANDONED))
    | {P.OPEN_CONFIRMATION: (S.CLOSING, [P.CLOSE], []), P.OPEN_FAILURE: stays(S.CLOSED)},
    S.OFFERED: dict.fromkeys(KINDS, (S.CLOSED, [P.OPEN_FAILURE], ["closed"])),
    S.OPEN: while_open(S.OPEN, eof=S.EOF_RECEIVED),
    S.EOF_SENT: while_open(S.EOF_SENT, eof=S.EOF_BOTH),
    S.EOF_RECEIVED: while_open(S.EOF_RECEIVED, eof=None),
    S.EOF_BOTH: while_open(S.EOF_BOTH, eof=None),
    S.CLOSING: dict.fromkeys(KINDS, stays(S.CLOSING)) | {P.CLOSE: stays(S.CLOSED)},
    S.CLOSED: dict.fromkeys(KINDS, stays(S.CLOSED)),
}

CALLS: dict[ChannelState, dict[Call, tuple[ChannelState, list[Packet]]]] = {
    S.OPENING: {Call.CLOSE: (S.ABANDONED, [])},
    S.ABANDONED: {Call.CLOSE: (S.ABANDONED, [])},
    S.OFFERED: {Call.ACCEPT: (S.OPEN, [P.OPEN_CONFIRMATION]), Call.REFUSE: (S.CLOSED, [P.OPEN_FAILURE])},
    S.OPEN: {Call.SEND_EOF: (S.EOF_SENT, [P.EOF]), Call.CLOSE: (S.CLOSING, [P.CLOSE])},
    S.EOF_SENT: {Call.SEND_EOF: (S.EOF_SENT, []), Call.CLOSE: (S.CLOSING, [P.CLOSE])},
    S.EOF_RECEIVED: {Call.SEND_EOF: (S.EOF_BOTH, [P.EOF]), Call.CLOSE: (S.CLOSING, [P.CLOSE])},
    S.EOF_BOTH: {Call.SEND_EOF: (S.EOF_BOTH, []), Call.CLOSE: (S.CLOSING, [P.CLOSE])},
    S.CLOSING: {call: (S.CLOSING, []) for call in Call},
    S.CLOSED: {call: (S.CLOSED, []) for call in Call},
}


def in_state(state: ChannelState) -> tuple[End, Recorder]:
    """Return an end with one channel in this state, and its handler."""
    end = End()
    if state is S.OFFERED:
        end.answer = end.wait
        end.receive(messages.open_channel(PEER, WINDOW, PACKET_MAX, WEB))
        return end, end.handlers[0]
    handler = end.open() if state in {S.OPENING, S.ABANDONED} else end.opened()
    channel = handler.channel
    if state in {S.EOF_SENT, S.EOF_BOTH}:
        channel.send_eof()
    if state in {S.EOF_RECEIVED, S.EOF_BOTH}:
        end.receive(packet_of(P.EOF, channel.number))
    if state in {S.ABANDONED, S.CLOSING, S.CLOSED}:
        channel.close()
    if state is S.CLOSED:
        end.receive(packet_of(P.CLOSE, channel.number))
    assert channel.state is state
    end.packets()
    handler.events.clear()
    return end, handler


@pytest.mark.parametrize(("state", "kind"), [*itertools.product(ChannelState, KINDS)], ids=lambda value: value.name)
def test_each_packet_in_each_state(state: ChannelState, kind: Packet) -> None:
    end, handler = in_state(state)
    reserved = end.mux.budget.reserved
    neighbour = end.opened()
    end.receive(packet_of(kind, handler.channel.number))
    assert (handler.channel.state, end.kinds(), handler.events) == PACKETS[state][kind]
    assert neighbour.channel.state is S.OPEN
    assert neighbour.events == []
    if handler.channel.state >= S.CLOSING:
        assert end.mux.budget.reserved == neighbour.channel.window.size
    else:
        assert end.mux.budget.reserved == reserved + neighbour.channel.window.size


@pytest.mark.parametrize(("state", "call"), [*itertools.product(ChannelState, Call)], ids=lambda value: value.name)
def test_each_call_in_each_state(state: ChannelState, call: Call) -> None:
    end, handler = in_state(state)
    channel = handler.channel
    expected = CALLS[state].get(call)
    if expected is None:
        with pytest.raises(RuntimeError, match=state.name):
            invoke(handler, call)
        assert channel.state is state
        return
    invoke(handler, call)
    assert (channel.state, end.kinds()) == expected
    assert handler.events == []


def invoke(handler: Recorder, call: Call) -> None:
    match call:
        case Call.ACCEPT:
            handler.channel.accept()
        case Call.REFUSE:
            handler.channel.refuse(OpenError.CONNECT_FAILED, "nothing listens there")
        case Call.SEND_EOF:
            handler.channel.send_eof()
        case Call.CLOSE:
            handler.channel.close()


@pytest.mark.parametrize("state", ChannelState, ids=lambda state: state.name)
def test_the_end_of_the_link_ends_a_channel_in_each_state(state: ChannelState) -> None:
    end, handler = in_state(state)
    end.mux.end("the link has gone")
    assert handler.channel.state is S.CLOSED
    told = {S.OPENING: ["open_failed"], S.ABANDONED: [], S.CLOSING: [], S.CLOSED: []}
    assert handler.events == told.get(state, ["closed"])
    assert handler.reason == ("the link has gone" if handler.events else "")
    assert (len(end.mux), end.mux.budget.reserved, end.packets()) == (0, 0, [])


def test_the_tables_name_every_state() -> None:
    assert set(RECEIVED) == set(CALLED) == set(ChannelState)


def test_nothing_is_sent_after_close() -> None:
    end, handler = in_state(S.OPEN)
    handler.slow = True
    half = handler.channel.window.size // 2
    for _ in range(half // PACKET_MAX):
        end.receive(data(handler.channel.number, bytes(PACKET_MAX)))
    handler.take(half)
    handler.write(b"too late")
    handler.channel.close()
    handler.channel.ready()
    end.mux.now = 1.0
    handler.take(half)
    assert end.kinds() == [P.CLOSE]
    assert end.mux.budget.reserved == 0
