"""asyncssh's log records reach the log for targets with `logLevel: debug`, and contain no password."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import asyncssh
import pytest

from integration.dialling import access, hop, settings
from reconciler.core.secret import Inline, Secret
from reconciler.core.spec import Access, PasswordLogin
from reconciler.ssh.connect.dial import dial
from support.asyncssh_server import AsyncsshServer


async def connect(to: Access, name: str, level: str) -> asyncssh.SSHClientConnection:
    chosen = replace(settings(), log_level=level)
    return (await dial(to, chosen, 1, name=name, client=asyncssh.SSHClient, environ={})).connection


async def test_debug_for_one_target_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with AsyncsshServer(tmp_path / "server", password="tr0ub4dor") as server:
        to = access(hop(server, logins=(PasswordLogin(Inline(Secret("tr0ub4dor"))),)))
        loud = await connect(to, "loud", "debug")
        quiet = await connect(to, "quiet", "info")
        lines = [record.getMessage() for record in caplog.records if record.name == "asyncssh"]
        assert lines
        assert all(line.startswith("loud: [conn=") for line in lines)
        assert "tr0ub4dor" not in caplog.text
        for connection in (loud, quiet):
            connection.close()
            await connection.wait_closed()
        said = len(caplog.records)
        last = await connect(to, "quiet", "info")
        last.close()
        await last.wait_closed()
        assert [record for record in caplog.records[said:] if record.name == "asyncssh"] == []
