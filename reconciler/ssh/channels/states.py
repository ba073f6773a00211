"""The states of a channel (RFC 4254 sections 5.1 to 5.3), and what each packet and each call does to them.

                                    OPENING ---close--> ABANDONED
                                       | confirmation       | confirmation: CLOSE is sent
OFFERED ---------accept------------> OPEN                   |
                                    /    |                  |
                          send_eof /     | EOF              |
                           EOF_SENT    EOF_RECEIVED         |
                               EOF |     / send_eof         |
                                  EOF_BOTH                  |
              from these four: close |                      |
                                  CLOSING <-----------------'
                                     | CLOSE
                                  CLOSED      CLOSE closes the other open states at once: it is answered with CLOSE
"""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Final

from reconciler.ssh.channels.messages import Packet


class ChannelState(IntEnum):
    """The state of a channel. An IntEnum, because members of other enums are hashed in Python code."""

    OPENING = auto()  # our request is not answered yet
    ABANDONED = auto()  # the same, and the client has gone: an opened channel is closed at once
    OFFERED = auto()  # the peer's request is not answered yet
    OPEN = auto()
    EOF_SENT = auto()  # we send no more data
    EOF_RECEIVED = auto()  # the peer sends no more data
    EOF_BOTH = auto()
    CLOSING = auto()  # we sent CLOSE, the peer has not: its packets were on their way, and are dropped
    CLOSED = auto()  # both sides sent CLOSE, or the channel was not opened: the number is free


class Call(IntEnum):
    """What the handler of a channel asks for."""

    ACCEPT = auto()
    REFUSE = auto()
    SEND_EOF = auto()
    CLOSE = auto()


_S, _P = ChannelState, Packet
_STAYS: Final = (_P.WINDOW_ADJUST, _P.REQUEST, _P.SUCCESS, _P.FAILURE)
_ENDS: Final = {_P.CLOSE: _S.CLOSED}
_DATA: Final = (_P.DATA, _P.EXTENDED_DATA)


def _stays(state: ChannelState, *packets: Packet) -> dict[Packet, ChannelState]:
    return dict.fromkeys(packets, state)


# The next state for each packet that the peer may send in a state. Any other packet violates the protocol. SUCCESS and
# FAILURE answer requests, which we do not send: they are ignored, as OpenSSH does (channel_input_status_confirm). So is
# what follows EOF.
RECEIVED: Final[dict[ChannelState, dict[Packet, ChannelState]]] = {
    _S.OPENING: {_P.OPEN_CONFIRMATION: _S.OPEN, _P.OPEN_FAILURE: _S.CLOSED},
    _S.ABANDONED: {_P.OPEN_CONFIRMATION: _S.CLOSING, _P.OPEN_FAILURE: _S.CLOSED},
    _S.OFFERED: {},
    _S.OPEN: _stays(_S.OPEN, *_DATA, *_STAYS) | {_P.EOF: _S.EOF_RECEIVED} | _ENDS,
    _S.EOF_SENT: _stays(_S.EOF_SENT, *_DATA, *_STAYS) | {_P.EOF: _S.EOF_BOTH} | _ENDS,
    _S.EOF_RECEIVED: _stays(_S.EOF_RECEIVED, *_DATA, *_STAYS, _P.EOF) | _ENDS,
    _S.EOF_BOTH: _stays(_S.EOF_BOTH, *_DATA, *_STAYS, _P.EOF) | _ENDS,
    _S.CLOSING: _stays(_S.CLOSING, *_DATA, *_STAYS, _P.EOF) | _ENDS,
    _S.CLOSED: {},
}

# The next state for each call. Any other call is a defect of the handler, and raises RuntimeError. A handler may learn
# of the end of its channel after it called: so calls that only end something are allowed to the end.
_ENDED: Final = {Call.SEND_EOF, Call.CLOSE, Call.ACCEPT, Call.REFUSE}
CALLED: Final[dict[ChannelState, dict[Call, ChannelState]]] = {
    _S.OPENING: {Call.CLOSE: _S.ABANDONED},
    _S.ABANDONED: {Call.CLOSE: _S.ABANDONED},
    _S.OFFERED: {Call.ACCEPT: _S.OPEN, Call.REFUSE: _S.CLOSED},
    _S.OPEN: {Call.SEND_EOF: _S.EOF_SENT, Call.CLOSE: _S.CLOSING},
    _S.EOF_SENT: {Call.SEND_EOF: _S.EOF_SENT, Call.CLOSE: _S.CLOSING},
    _S.EOF_RECEIVED: {Call.SEND_EOF: _S.EOF_BOTH, Call.CLOSE: _S.CLOSING},
    _S.EOF_BOTH: {Call.SEND_EOF: _S.EOF_BOTH, Call.CLOSE: _S.CLOSING},
    _S.CLOSING: dict.fromkeys(_ENDED, _S.CLOSING),
    _S.CLOSED: dict.fromkeys(_ENDED, _S.CLOSED),
}
