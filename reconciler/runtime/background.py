"""Runs a background task of the process again whenever it fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from reconciler.system.fault_log import FaultLog

RESTART_AFTER = 1.0  # seconds before a failed task is restarted


async def forever(work: Callable[[], Coroutine[None, None, None]], doing: str, fault_log: FaultLog) -> None:
    """Run `work` until cancelled. An exception is logged with `doing`, and the work starts again."""
    while True:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - supervision: log the error, restart the task
            fault_log.tell(f"{doing} failed and is restarted", error)
        await asyncio.sleep(RESTART_AFTER)
