"""Internal errors: when a failed action is retried, what the status shows, and how often it is logged."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.config.load import Config
from reconciler.core.actions import Dial, Open
from reconciler.core.backoff import FAULT_INITIAL, FAULT_MAX, NextTry, Wait, next_fault_try
from reconciler.core.faults import Faults, internal
from reconciler.core.observed import EMPTY, Observed, Phase, Reason, SocketKey, Tries
from reconciler.core.status import make_status
from reconciler.core.subject import Subject
from reconciler.runtime.app import App
from reconciler.system.fault_log import FaultLog
from unit.build import START, desired, local, target

TARGET = target("a")
TUNNEL = local("a/one", 1)
KEY = SocketKey(TUNNEL.listen, 0)
OPEN = Open(KEY, TUNNEL, None, "the configuration asks for it")


def test_a_failed_action_is_retried_with_growing_delays() -> None:
    faults, now, rests = Faults(), 100.0, list[float]()
    for _ in range(12):
        assert faults.is_due(OPEN, now)
        faults.failed(OPEN, ValueError("x"), now)
        assert not faults.is_due(OPEN, now)
        assert not faults.is_due(Open(KEY, TUNNEL, None, "another reason"), now), "it is the same action"
        rests.append(faults.next_try - now)
        now = faults.next_try
    assert rests[0] == FAULT_INITIAL
    assert rests == sorted(rests)
    assert rests[-1] == FAULT_MAX


def test_a_record_ends_with_success_or_without_demand() -> None:
    dial, faults = Dial(TARGET, 1, "the configuration asks for it"), Faults()
    for action in (dial, OPEN):
        faults.failed(action, ValueError("x"), 100.0)
    assert faults.by_subject().keys() == {"a", "a/one"}
    faults.succeeded(dial)
    assert faults.by_subject().keys() == {"a/one"}
    faults.keep([dial])
    assert not faults.by_subject()
    assert faults.next_try == math.inf


@pytest.mark.parametrize("secret", ["hunter2"])
def test_the_message_does_not_contain_the_text_of_the_error(secret: str) -> None:
    failure = internal("listening", ValueError(secret))
    assert failure.reason is Reason.INTERNAL
    assert failure.message == "internal error while listening (ValueError): report it with the log of this process"


def test_an_internal_error_keeps_an_up_tunnel_up() -> None:
    world = desired(TARGET, TUNNEL)
    tries = Tries(2, internal("listening", ValueError("x")), START.mono, START.mono, False, None, "")

    def verdicts(**faults: Tries) -> tuple[Phase, Reason | None, Phase, Reason | None]:
        observed: Observed = replace(EMPTY, faults={name.replace("__", "/"): one for name, one in faults.items()})
        judged = make_status(world, observed, START)
        (one,), (other,) = judged.targets, judged.tunnels
        return one.verdict.phase, one.verdict.reason, other.verdict.phase, other.verdict.reason

    assert verdicts() == (Phase.PENDING, None, Phase.PENDING, None)
    assert verdicts(a=tries) == (Phase.DOWN, Reason.INTERNAL, Phase.DOWN, Reason.INTERNAL)
    assert verdicts(a__one=tries) == (Phase.PENDING, None, Phase.DOWN, Reason.INTERNAL)
    status = make_status(world, replace(EMPTY, faults={"a": tries}), START)
    assert status.targets[0].verdict.next_try == NextTry(next_fault_try(tries), Wait.INTERNAL)


def raised(text: str) -> ValueError:
    """An error with a traceback, as it is caught."""
    with pytest.raises(ValueError, match=text) as caught:
        raise_it(text)
    return caught.value


def raise_it(text: str) -> None:
    raise ValueError(text)


def test_a_fault_is_logged_with_its_traceback_once_and_then_counted(caplog: pytest.LogCaptureFixture) -> None:
    log = FaultLog()
    for number in range(1000):
        log.tell("listening", raised(f"number {number}"), subject=Subject("tunnel", "a/one"))
    assert len([one for one in caplog.records if one.exc_info]) == 1
    assert len(caplog.records) == 10, "1, 2, 4, ... 512"
    assert "512 times so far" in caplog.records[-1].getMessage()
    log.tell("listening", TypeError("another"), subject=Subject("tunnel", "a/one"))
    log.tell("listening", raised("another's"), subject=Subject("tunnel", "a/two"))
    assert len([one for one in caplog.records if one.exc_info]) == 3, "each distinct one"
    assert {getattr(one, "reason", None) for one in caplog.records} == {"internal"}


def test_endless_faults_use_bounded_memory() -> None:
    log = FaultLog()
    logging.disable()
    try:
        for number in range(5000):
            log.tell(f"fault {number}", ValueError("x"))
    finally:
        logging.disable(logging.NOTSET)
    assert len(log._counts) <= 256


async def test_an_error_in_a_callback_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    app = App(Config([tmp_path / "tunnels.yaml"], environ={}))

    def callback(_number: int) -> None:
        raise ValueError("planted")

    loop.set_exception_handler(app.unhandled)
    try:
        for number in range(3):
            loop.call_soon(callback, number)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
        await app.engine.actuator.close()
    assert len([one for one in caplog.records if one.exc_info]) == 1
    assert "Exception in callback" in caplog.text
