"""Log lines: one for each change, reminders at growing intervals, the audit log, and no forged lines."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pty
import re
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from reconciler.cli.terminal import logs
from reconciler.core.observed import Phase, Reason
from reconciler.core.status import Status, TargetStatus, Verdict
from reconciler.report.change_log import ChangeLogger
from reconciler.report.changes import ChangeTracker
from reconciler.ssh.clients import refusal_log
from support.services import EchoServer, connected, exchange
from support.sshd import Sshd
from support.tunnels import Running, file, local, remote, running, target
from support.wait import eventually, free_port


@pytest.fixture(params=["text", "json"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The stderr of `run --log-format ...`."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    lines = io.StringIO()
    monkeypatch.setattr("sys.stderr", lines)
    root.handlers.clear()
    logs.set_up("info", request.param)
    yield lines
    root.handlers[:], level = before
    root.setLevel(level)


def test_a_message_cannot_forge_a_line_or_send_terminal_escapes(written: io.StringIO) -> None:
    evil = "bye\n2026-11-22T10:00:00.000Z INFO    tunnel a/b is up\x1b[2J\u2028\x85"
    logging.getLogger("reconciler").warning("the server said %s", evil, extra={"target": "a\nb"})
    [line] = written.getvalue().splitlines()
    assert not [c for c in line if not c.isprintable()]


def test_a_traceback_is_written_in_full(written: io.StringIO) -> None:
    try:
        int("1\n\x1b[2J")
    except ValueError:
        logging.getLogger("reconciler").exception("it failed")
    assert "ValueError: invalid literal" in written.getvalue()
    assert "\x1b" not in written.getvalue()


@pytest.mark.parametrize(
    ("form", "environ", "is_coloured"),
    [("text", {}, True), ("text", {"NO_COLOR": "1"}, False), ("text", {"TERM": "dumb"}, False), ("json", {}, False)],
)
def test_levels_have_colours_on_a_terminal(
    form: str, environ: dict[str, str], is_coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal, os.fdopen(theirs, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        logs.set_up("info", form)
        logging.getLogger("reconciler").warning("it said \x1b[2J%s", "\x1b[31m")
        root.handlers[0].flush()
        line = terminal.read(1000).decode()
    assert ("\x1b[33mWARNING\x1b[0m it said" in line) is is_coloured
    assert line.count("\x1b") == (2 if is_coloured else 0), "text from outside has no colours"


def test_dropped_log_lines_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = os.pipe()
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    with os.fdopen(reads, "rb") as reader, os.fdopen(writes, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        logs.set_up("info")
        for letter in "abcd":
            logging.getLogger("reconciler").warning(letter * (logs._QUEUED_MAX * 2 // 5))
        assert [reader.readline()[-2:-1] for _ in range(2)] == [b"a", b"b"]
        root.handlers[0].flush()
        logging.getLogger("reconciler").warning("after")
        assert b"dropped 2 log lines" in reader.readline()
        assert reader.readline().endswith(b" after\n")


async def test_each_change_is_a_line_with_fields(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    text = file(sshd, local("echo", free_port(), echo.port)) + target(sshd, "dead", port=free_port())
    async with running(tmp_path, text + local("never", free_port(), echo.port)) as tunnels:
        await tunnels.until("server/echo", Phase.UP)
        await tunnels.until("dead/never", Phase.DOWN)
    lines = [json.loads(logs._Json().format(record)) for record in caplog.records]
    text = f"target server is up: {sshd.host}:{sshd.port} (1 tunnel: echo)"
    [up] = [line for line in lines if line["message"] == text]
    assert (up["target"], up["tunnels"], up["level"]) == ("server", ["server/echo"], "info")
    [down] = [line for line in lines if line["message"].startswith("target dead is down")]
    assert (down["tunnels"], down["reason"], down["level"]) == (["dead/never"], "refused", "warning")


async def test_a_target_and_its_tunnels_are_one_line(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    names = [f"t{number}" for number in range(19)]
    ids = [f"server/{name}" for name in names]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = file(
            sshd,
            *(local(name, free_port(), echo.port) for name in names),
            local("taken", taken.getsockname()[1], echo.port),
        )
        async with running(tmp_path, text) as tunnels:
            await eventually(lambda: list(tunnels.phases().values()) == [*["up"] * 19, "down"])
            await sshd.kill_sessions()
            await eventually(lambda: any("server is down" in record.getMessage() for record in caplog.records))
            await tunnels.until("server/t0", Phase.UP)
            tunnels.engine.pause([*ids, "server/taken"], None, "requested")
            await tunnels.until("server/t0", Phase.OFF)
            tunnels.edit("targets: {}\n")
            await eventually(lambda: tunnels.phases() == {})
    lines = [record for record in caplog.records if record.name.startswith("reconciler.r")]
    messages = "\n".join(record.getMessage() for record in lines)
    some = "t0, t1, t2, t3, t4"
    assert [record.__dict__.get("tunnels") for record in lines if " is up: " in record.getMessage()] == [ids, ids]
    for text in (
        f"target server is up: {sshd.host}:{sshd.port} (19 tunnels: {some} and 14 more)",
        f" (19 tunnels: {some} and 14 more)",
        "tunnel server/taken is down (local_port_in_use): ",
        f"20 tunnels of server are paused: requested ({some} and 15 more)",
        f"20 tunnels of server are off: paused ({some} and 15 more)",
        f"target server is gone (20 tunnels: {some} and 15 more)",
    ):
        assert text in messages
    own = [line for line in messages.splitlines() if line.startswith("tunnel ")]
    assert {line.split(" ")[1] for line in own} == {"server/taken"}, "only the one that differs has lines"


def test_repeated_failures_are_logged_at_growing_intervals(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    tracker, change_logger = ChangeTracker(), ChangeLogger()
    for second in range(3600):
        reason = Reason.REFUSED if second % 2 else Reason.TIMEOUT
        verdict = Verdict(Phase.DOWN, reason, "no response", None, failures=second + 1)
        judgement = Status((TargetStatus("prod", verdict, "", ()),), ())
        change_logger.log_changes(tracker.update(judgement, second), judgement, float(second))
    lines = [record.message for record in caplog.records]
    assert len(lines) == 11, "after 0, 10, 30, 70, ... s, and then every 10 min"
    assert lines[0] == "target prod is down (timeout): no response"
    assert lines[1] == "target prod is still down (timeout): no response (11th failure in a row)"
    assert lines[2].endswith("(31st failure in a row)")
    caplog.clear()
    well = Status((TargetStatus("prod", Verdict(Phase.UP), "", ()),), ())
    change_logger.log_changes(tracker.update(well, 3600), well, 3600.0)
    assert [record.message for record in caplog.records] == ["target prod is up"]


def test_a_failing_replacement_of_a_link_is_a_warning_with_reminders(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    tracker, change_logger = ChangeTracker(), ChangeLogger()

    def passes(verdict: Verdict, second: float) -> list[tuple[str, str]]:
        caplog.clear()
        judgement = Status((TargetStatus("prod", verdict, "a:22", ()),), ())
        change_logger.log_changes(tracker.update(judgement, second), judgement, second)
        return [(record.levelname, record.message) for record in caplog.records]

    passes(Verdict(Phase.UP), 0.0)
    [(level, message)] = passes(Verdict(Phase.UP, Reason.REFUSED, "the old link stays", failures=1), 1.0)
    assert (level, message) == ("WARNING", "target prod is up (refused): a:22: the old link stays")
    assert not passes(Verdict(Phase.UP, Reason.TIMEOUT, "the old link stays", failures=2), 2.0), (
        "one line for several tries"
    )
    [(level, message)] = passes(Verdict(Phase.UP, Reason.TIMEOUT, "the old link stays", failures=9), 12.0)
    assert (level, message.partition("(9th")[1]) == ("WARNING", "(9th")
    [(level, _)] = passes(Verdict(Phase.DOWN, Reason.TIMEOUT, "and it is gone", failures=9), 13.0)
    assert level == "WARNING"
    [(level, message)] = passes(Verdict(Phase.UP), 14.0)
    assert (level, message) == ("INFO", "target prod is up: a:22")


async def test_refused_clients_are_logged_once_and_then_counted(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusal_log, "FIRST", 1.0)
    caplog.set_level("DEBUG", "reconciler")
    names = ("full", "denied", "dead", "back")
    ports = {name: free_port() for name in names}
    nobody = free_port()
    text = file(
        sshd,
        local("full", ports["full"], echo.port, maxConnections=1),
        local("denied", ports["denied"], echo.port, deny="[127.0.0.1]"),
        local("dead", ports["dead"], nobody),
        remote("back", ports["back"], nobody),
    )
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        async with connected("127.0.0.1", ports["full"]) as (reader, writer):
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            for port in ports.values():
                for _ in range(5):
                    await is_refused(port)
        await eventually(lambda: all(are_counted(caplog, name) for name in names))
    refused = f":{nobody} refuses connections"
    for name, level, why in (
        ("full", "WARNING", "maxConnections 1 is reached"),
        ("denied", "INFO", "its address is not allowed"),
        ("dead", "INFO", refused),
        ("back", "INFO", refused),
    ):
        each = [record for record in refusals(caplog, name) if " was refused: " in record.getMessage()]
        assert len(each) == 5
        assert all(why in record.getMessage() for record in each)
        assert (each[0].levelname, each[0].__dict__["tunnel"]) == (level, f"server/{name}")


async def is_refused(port: int) -> None:
    with contextlib.suppress(ConnectionResetError):  # the program, in the same event loop, may be faster than `connect`
        async with connected("127.0.0.1", port) as (reader, _):
            assert await reader.read() == b""


def refusals(caplog: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    of_tunnel = [record for record in caplog.records if record.name == refusal_log.__name__]
    return [record for record in of_tunnel if f"server/{name}:" in record.getMessage()]


def are_counted(caplog: pytest.LogCaptureFixture, name: str) -> bool:
    """Return True if clients that were logged only at debug level are in the counts."""
    records = refusals(caplog, name)
    sums = re.findall(r"(\d+) more clients? w\w+ refused in the last", "\n".join(one.getMessage() for one in records))
    return sum(map(int, sums)) == sum(one.levelno == logging.DEBUG for one in records) > 0


async def test_the_audit_log_has_origin_destination_and_end(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    port, unheard = free_port(), free_port()
    text = file(
        sshd,
        local("echo", port, echo.port, audit="true", labels="{team: data}"),
        local("unheard", unheard, echo.port, labels="{team: data, app: x}"),
    )
    async with running(tmp_path, text) as tunnels:
        await tunnels.all_up()
        await exchange("127.0.0.1", unheard)
        async with connected("127.0.0.1", port) as (reader, writer):
            ours = "{}:{}".format(*writer.get_extra_info("sockname"))
            writer.write(b"four")
            assert await reader.readexactly(4) == b"four"
        await eventually(lambda: len(audited(caplog)) == 2)
        opened, ended = audited(caplog)
        assert tunnels.app.loaded is not None
        for line in (opened, ended):
            assert (line["tunnel"], line["origin"], line["to"]) == ("server/echo", ours, f"127.0.0.1:{echo.port}")
            assert line["revision"] == tunnels.app.loaded.revision
            assert line["connection"] == opened["connection"]
            assert line["labels"] == {"team": "data"}
        assert (ended["sent"], ended["received"], ended["why"]) == (4, 4, "both sides closed")
        [text] = [logs._Text().format(record) for record in caplog.records if "server is up" in record.getMessage()]
        assert text.endswith(" {team=data}"), "both tunnels have this label"
        assert f"client {ours} to 127.0.0.1:{echo.port}: ended after" in str(ended["message"])


async def test_switching_audit_affects_live_clients(
    sshd: Sshd, echo: EchoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    port = free_port()
    async with running(tmp_path, file(sshd, local("echo", port, echo.port, audit="false"))) as tunnels:
        await tunnels.all_up()
        for audit in (True, False):
            async with connected("127.0.0.1", port) as (reader, writer):
                writer.write(b"four")
                assert await reader.readexactly(4) == b"four"
                tunnels.edit(file(sshd, local("echo", port, echo.port, audit=str(audit).lower())))
                await eventually(partial(is_audited, tunnels, audit))
            await tunnels.no_client_is_connected()
        await exchange("127.0.0.1", port)
        await tunnels.no_client_is_connected()
    assert [line.get("sent") for line in audited(caplog)] == [4, None, 4], "one end; one opening with its end; nothing"


def is_audited(tunnels: Running, audit: bool) -> bool:
    return tunnels.engine.settled and tunnels.engine.desired.tunnels["server/echo"].policy.audit is audit


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    records = [record for record in caplog.records if record.name == "reconciler.audit"]
    return [json.loads(logs._Json().format(record)) for record in records]
