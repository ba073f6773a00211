"""Twenty processes with a wrong key share one address: the server must not ban the address."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from reconciler.core.observed import Failure, LinkPhase, Phase, Reason
from support.keys import Keys
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import Running, file, local, running
from support.wait import eventually, free_port
from unit import build
from unit.build import START, World

PROCESSES = 20
WRONG_KEY = Failure(Reason.AUTH, "permission denied")
SHUT_OUT = Failure(Reason.SERVER_BUSY, "closed before the banner")

HOUR, WINDOW, LOGINS = 3600.0, 600.0, 5
PENALTY, PENALTY_MIN, PENALTY_MAX = 5.0, 15.0, 600.0  # sshd's PerSourcePenalties for failed logins, since 9.8


class Strict:
    """A server that refuses an address while its penalties exceed a limit (OpenSSH's srclimit.c)."""

    def __init__(self) -> None:
        self._penalty_until = 0.0
        self._shut_out_until = 0.0

    def answers(self, now: float) -> Failure:
        if now < self._shut_out_until:
            return SHUT_OUT
        self._penalty_until = min(max(self._penalty_until, now) + PENALTY, now + PENALTY_MAX)
        if self._penalty_until - now >= PENALTY_MIN:
            self._shut_out_until = self._penalty_until
        return WRONG_KEY


@pytest.mark.parametrize("clients_wait", [False, True])
def test_a_wrong_key_is_tried_at_most_five_times_in_ten_minutes(*, clients_wait: bool) -> None:
    """Simulate an hour. Held clients, which shorten the backoff of other failures, change nothing."""
    server = Strict()
    worlds = [World() for _ in range(PROCESSES)]
    logins: list[list[float]] = [[] for _ in worlds]
    for world in worlds:
        world.edit(build.target("prod"), build.local("prod/pg", 5432))
        for socket in world.sockets():
            world.finish(socket.key)
        if clients_wait:
            world.arrive("prod/pg")
            assert world.observe().demand["prod"].held
    now = START.mono
    while now < START.mono + HOUR:
        for mine, world in zip(logins, worlds, strict=True):
            world.elapse(now - world.now().mono)
            world.passes()
            for link in world.links(LinkPhase.DIALING):
                answer = server.answers(now)
                world.finish(link.id, answer)
                if answer is WRONG_KEY:
                    mine.append(now)
        now = max(now + 0.001, min(world.wake_at() for world in worlds))
    worst = max(in_any_window(mine) for mine in logins)
    assert worst <= LOGINS


async def test_twenty_wrong_keys_do_not_ban_a_process_with_the_right_key(
    echo: EchoServer, keys: Keys, tmp_path: Path
) -> None:
    """Each process dials another address of the server, so that no process waits for another one."""
    strict = {"MaxStartups": "5:50:10", "MaxAuthTries": "2", "LoginGraceTime": "10", "ListenAddress": ""}
    wrong, port = keys.make("wrong"), free_port()
    async with contextlib.AsyncExitStack() as stack:
        sshd = Sshd(tmp_path / "sshd", options=strict)
        sshd.options["ListenAddress"] = f"0.0.0.0:{sshd.port}"
        await stack.enter_async_context(sshd)
        text = file(sshd, local("echo", port, echo.port, holdTimeout="60s"))
        healthy = await stack.enter_async_context(running(tmp_path, text))
        await healthy.all_up()
        others = []
        for number in range(PROCESSES):
            directory = tmp_path / str(number)
            directory.mkdir()
            text = file(
                sshd,
                local("echo", free_port(), echo.port),
                host=f"127.0.0.{number + 2}",
                privateKey=wrong.private,
                hostKeys=f'["{sshd.host_public_key}"]',
            )
            others.append(await stack.enter_async_context(running(directory, text)))
        for moment in ("during the failures", "after the failures"):
            if moment == "after the failures":
                for other in others:
                    verdict = await other.until("server/echo", Phase.DOWN)
                await eventually(lambda: all(needs_action(other) for other in others), within=60)
            await sshd.kill_sessions()
            assert await exchange("127.0.0.1", port) == b"ping"
            verdict = await healthy.until("server/echo", Phase.UP)
            assert verdict.reason is None


def in_any_window(moments: list[float]) -> int:
    """Return the largest number of moments within ten minutes."""
    return max(sum(first <= one < first + WINDOW for one in moments) for first in moments)


def needs_action(tunnels: Running) -> bool:
    verdict = tunnels.verdict("server/echo")
    return verdict is not None and verdict.needs_action
