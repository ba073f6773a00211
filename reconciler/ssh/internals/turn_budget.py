"""Limits the work on received packets in one turn of the event loop, for all packet paths of the loop together.

Each link may work for what is left of the turn, and for a short time if nothing is left: so a hundred links whose
servers send small packets without a pause delay the others by milliseconds, and none of them stops.
"""

from __future__ import annotations

import asyncio

TURN = 0.004  # seconds
QUANTUM = 0.0001  # seconds for one link when nothing is left
SHORT = 512  # bytes: a read of less is not counted. It holds about as many packets as QUANTUM suffices for


class TurnBudget:
    """The budget of one event loop."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._began = 0.0
        self._idle_since = 0.0
        self._is_scheduled = False

    def begin(self, now: float) -> float:
        """Begin to work at `now` (loop time), and return when to stop."""
        # A callback in each turn would mark its start exactly, and cost throughput. While there is time left, the time
        # between two calls counts as time for others.
        self._spent = max(0.0, self._spent - (now - self._idle_since))
        self._began = now
        return now + max(QUANTUM, TURN - self._spent)

    def end(self, now: float) -> None:
        """End the work that began last."""
        self._idle_since = now
        self._spent += now - self._began
        if self._spent > TURN / 2 and not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._is_scheduled = False
        self._spent = 0.0
