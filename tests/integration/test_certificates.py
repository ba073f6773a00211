"""Certificates and forwards in the running program: what a certificate forbids, and when it becomes valid."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from integration.dialling import access, certified_login, failure_of, hop, sshd_with_authority
from reconciler.core.observed import Phase, Reason
from support.keys import Keys
from support.services import EchoServer, exchange
from support.sshd import Sshd
from support.tunnels import file, local, remote, running
from support.wait import eventually, free_port

NO_FORWARDING = ("-O", "clear", "-O", "permit-pty")


async def test_a_certificate_without_forwarding_is_named(tmp_path: Path, keys: Keys, echo: EchoServer) -> None:
    authority, key, port = keys.make("ca"), keys.make("id"), free_port()
    async with sshd_with_authority(tmp_path, authority) as sshd:
        certificate = keys.sign(key, authority, "-n", sshd.user, *NO_FORWARDING)
        said = f"the certificate {certificate} lacks permit-port-forwarding"
        tunnels_of = (local("here", port, echo.port), remote("there", free_port(), echo.port))
        text = file(sshd, *tunnels_of, privateKey=key.private, certificate=certificate)
        async with running(tmp_path, text) as tunnels:
            verdict = await tunnels.until("server/there", Phase.DOWN)
            assert verdict.reason is Reason.FORBIDDEN_BY_SERVER
            assert "the SSH server does not allow listening on" in verdict.message
            assert f"({said}): have a certificate issued with that extension" in verdict.message
            await tunnels.until("server/here", Phase.UP)
            for _ in range(3):
                with contextlib.suppress(ConnectionResetError):
                    assert await exchange("127.0.0.1", port) == b""
            verdict = await tunnels.until("server/here", Phase.UNHEALTHY)
            assert f"does not allow connections to 127.0.0.1:{echo.port} ({said})" in verdict.message


async def test_a_jump_host_that_a_certificate_does_not_let_forward_is_explained(
    tmp_path: Path, keys: Keys, sshd: Sshd
) -> None:
    authority, key = keys.make("ca"), keys.make("id")
    async with sshd_with_authority(tmp_path, authority) as jump:
        certificate = keys.sign(key, authority, "-n", jump.user, *NO_FORWARDING)
        failure = await failure_of(access(hop(sshd), hop(jump, logins=(certified_login(key, certificate),))))
    assert failure.reason is Reason.FORBIDDEN_BY_SERVER
    assert "the jump host does not allow a connection to" in failure.message
    assert f"{certificate} lacks permit-port-forwarding" in failure.message


async def test_a_target_is_up_when_its_certificate_becomes_valid(tmp_path: Path, keys: Keys, echo: EchoServer) -> None:
    authority, key = keys.make("ca"), keys.make("id")
    async with sshd_with_authority(tmp_path, authority) as sshd:
        starts = int(time.time()) + 5  # after the first try
        certificate = keys.certify(key, authority, principals=[sshd.user], valid_after=starts)
        text = file(sshd, local("echo", free_port(), echo.port), privateKey=key.private, certificate=certificate)
        async with running(tmp_path, text) as tunnels:
            verdict = await tunnels.until("server/echo", Phase.DOWN)
            assert verdict.reason is Reason.CERTIFICATE_EXPIRED
            assert f"the certificate {certificate} is not valid before" in verdict.message
            assert not verdict.needs_action
            now = tunnels.engine.loop.now()
            assert verdict.next_try is not None
            assert abs(verdict.next_try.at - now.mono - (starts - now.wall)) < 0.1  # not a limit: the two are equal
            await tunnels.all_up(within=30)  # by backoff, it would be a minute
            await eventually(lambda: "Accepted publickey" in sshd.log_text())
