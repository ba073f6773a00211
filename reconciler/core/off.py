"""Why a target or tunnel is off."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class OffCause(StrEnum):
    """What keeps a target or tunnel off. The values are words of messages and of the status JSON."""

    DISABLED = "disabled"  # `enabled: false`
    PAUSED = "paused"
    EXPIRED = "expired"  # `expiresAt` has passed
    NO_TARGET = "no target"
    UNSET_VARIABLE = "unset variable"


@dataclass(frozen=True, slots=True)
class Off:
    """Why a target or tunnel is off, and the end of a timed pause (Unix time)."""

    cause: OffCause
    until: float | None = None

    def __str__(self) -> str:
        if self.until is None:
            return self.cause
        return f"{self.cause} until {datetime.fromtimestamp(self.until, UTC):%Y-%m-%dT%H:%M:%SZ}"


DISABLED = Off(OffCause.DISABLED)
EXPIRED = Off(OffCause.EXPIRED)
NO_TARGET = Off(OffCause.NO_TARGET)
UNSET_VARIABLE = Off(OffCause.UNSET_VARIABLE)
