"""The text of `tunnels status`, and how it fits the terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from reconciler.cli.responses import StatusJson, TargetJson, TunnelJson
from reconciler.cli.terminal.status_view import lines
from reconciler.cli.terminal.table import Cell, Column, height, shortened, size, span, table, width
from reconciler.cli.terminal.text_width import text_width
from reconciler.core.text.printable import printable

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def tunnel(name: str, phase: str = "up", **fields: Any) -> TunnelJson:
    defaults = {
        "id": name,
        "target": name.partition("/")[0],
        "name": name.partition("/")[2],
        "type": "local",
        "phase": phase,
        "up": phase == "up",
        "reason": None,
        "message": None,
        "needsAction": False,
        "listen": "127.0.0.1:5432",
        "dial": "db:5432",
        "connections": 0,
        "held": 0,
        "bytesSent": 0,
        "bytesReceived": 0,
        "reconnects": 0,
        "since": ago(90),
    }
    return cast("TunnelJson", defaults | fields)


def status(*tunnels: TunnelJson, next_try: float | None = None, error: str | None = None) -> StatusJson:
    """Return a status in which each target has the state of its last tunnel."""
    due = ago(-next_try) if next_try else None
    last = {one["target"]: cast("dict[str, Any]", one) for one in tunnels}
    shared = ("phase", "reason", "message", "needsAction", "since")
    own = {"nextTryAt": due, "host": "a:22", "reconnects": 0}
    targets = [{"name": name, **own} | {field: one[field] for field in shared} for name, one in last.items()]
    file = {"path": "tunnels.yaml", "valid": error is None, "error": error}
    return {
        "version": "1.2.3",
        "instance": "tunnels-0",
        "config": cast("Any", {"files": [file], "revision": "r", "loadedAt": ago(7200), "converged": True}),
        "targets": cast("list[TargetJson]", targets),
        "tunnels": list(tunnels),
    }


def tunnel_lines(shown: StatusJson, width: int | None, height: int | None = None) -> list[str]:
    """Return the lines from the table of tunnels on."""
    shown_lines = lines(shown, NOW, width, height)
    return shown_lines[next(n for n, line in enumerate(shown_lines) if line.startswith("TUNNEL")) :]


def test_a_shared_problem_is_one_paragraph_with_its_next_try() -> None:
    message = "bastion:22 refuses connections: start the SSH server there"
    down = [tunnel(f"prod/{name}", "down", reason="refused", message=message, held=1) for name in "abcde"]
    shown_lines = tunnel_lines(status(*down, next_try=12), 80)
    assert shown_lines[7:] == [
        "prod/a, prod/b, prod/c and 2 more of prod have been down for 1m (refused):",
        f"  {message}",
        "  5 clients are waiting for it.",
        "  Next try in 13s.",
        "",
        "0 of 5 tunnels up; file read 2h ago.",
    ]


def test_needs_action_says_so_and_when_it_is_tried_at_once() -> None:
    down = tunnel("prod/a", "down", reason="auth", message="refused the login", needsAction=True)
    shown_lines = "\n".join(lines(status(down, next_try=60), NOW, 80))
    assert "Needs action: retrying fails until this is fixed." in shown_lines
    assert "Next try in 1m; at once when a file that it names changes." in shown_lines


def test_the_next_try_of_another_problem_is_not_shown() -> None:
    down = tunnel("prod/a", "down", reason="local_port_in_use", message="taken by nginx")
    held = status(down, next_try=60)
    held["targets"][0]["reason"], held["targets"][0]["message"] = "auth", "refused the login"
    shown_lines = lines(held, NOW, 80)
    assert shown_lines[shown_lines.index("  taken by nginx") + 1] == "", "the next try is that of the target"


def test_a_tunnel_that_is_off_says_why_and_does_not_count() -> None:
    shown_lines = tunnel_lines(
        status(tunnel("a/x"), tunnel("a/y", "off", message="paused", off="paused"), tunnel("a/z", "standby")), 80
    )
    assert shown_lines[2].split()[:2] == ["a/y", "paused"]
    assert shown_lines[4:] == ["", "1 tunnel up, 2 off or in standby; file read 2h ago."], "no text appears twice"


def test_a_timed_pause_shows_its_end() -> None:
    paused = tunnel("a/y", "off", message="paused until 2026-11-22T13:00:00Z", off="paused")
    shown_lines = tunnel_lines(status(tunnel("a/x"), paused), 80)
    assert shown_lines[2].split()[:2] == ["a/y", "paused"], "the column stays narrow"
    assert shown_lines[4:6] == ["a/y is off:", "  paused until 2026-11-22T13:00:00Z"]


def test_the_message_of_a_target_that_is_up_is_shown() -> None:
    message = "still using the old connection, the new one failed: refused the login"
    shown = status(tunnel("a/x", message=message), tunnel("a/y", message=message), next_try=60)
    shown["targets"][0]["reason"], shown["targets"][0]["needsAction"] = "auth", True
    assert tunnel_lines(shown, 100)[4:] == [
        "a/x, a/y are up (auth):",
        f"  {message}",
        "  Needs action: retrying fails until this is fixed.",
        "  Next try in 1m; at once when a file that it names changes.",
        "",
        "2 tunnels up; file read 2h ago.",
    ]


def test_a_target_message_that_no_tunnel_has_is_shown() -> None:
    shown = status(tunnel("a/x", "off", message="paused", off="paused"))
    shown["targets"][0] |= {"phase": "up", "reason": "auth", "message": "the old one goes on", "needsAction": True}
    assert tunnel_lines(shown, 100)[3:5] == ["a is up (auth):", "  the old one goes on"]
    assert "  Needs action: retrying fails until this is fixed." in lines(shown, NOW, 100)


def test_a_connection_to_a_later_host_is_shown() -> None:
    shown = status(tunnel("a/x"), tunnel("a/y"), tunnel("b/x"))
    shown["targets"][0]["message"] = "on b:22, host 2 of 2: retrying a:22 every 60 s"
    assert tunnel_lines(shown, 100)[5:] == [
        "a is up:",
        "  on b:22, host 2 of 2: retrying a:22 every 60 s",
        "",
        "3 tunnels up; file read 2h ago.",
    ]


def test_a_problem_shows_the_description_of_the_tunnel() -> None:
    down = [
        tunnel(f"a/{name}", "down", message="gone", description=text) for name, text in (("x", "Orders"), ("y", ""))
    ]
    assert "a/x (Orders), a/y have been down for 1m:" in lines(status(*down), NOW, 80)


def test_the_summary_of_an_ending_process_counts_its_clients() -> None:
    leaving = tunnel(
        "a/x", "draining", connections=2, message="the process is ending: waiting for its last clients to finish"
    )
    for tunnels, text in (
        ((leaving,), "The process is ending: it accepts no new clients, and 2 clients may finish."),
        ((), "The process is ending."),
    ):
        shown = status(*tunnels)
        shown["ending"] = True
        assert lines(shown, NOW, 80)[-1] == text


def test_an_unchecked_host_key_is_shown() -> None:
    shown = status(tunnel("prod/a"), tunnel("safe/b"))
    shown["targets"][0]["hostKeyVerified"], shown["targets"][1]["hostKeyVerified"] = False, True
    assert [line for line in lines(shown, NOW, None) if "NOT checked" in line] == [
        "prod: host key NOT checked (strictHostKeyChecking: false), so the server may be an impostor."
    ]


def test_an_invalid_file_is_shown() -> None:
    shown_lines = lines(status(tunnel("a/x"), error="tunnels.yaml:3:5: unknown key"), NOW, 80)
    assert "tunnels.yaml is invalid: its last valid content stays in use." in shown_lines
    assert "  tunnels.yaml:3:5: unknown key" in shown_lines


def test_status_fits_80_columns_and_keeps_ports_and_ends() -> None:
    long = tunnel(
        "eu-central-analytics/clickhouse-replica-with-a-long-name",
        "unhealthy",
        dial="clickhouse-replica-2.analytics.eu-central-1.internal:9000",
        message="word " * 60,
    )
    shown_lines = tunnel_lines(status(long, tunnel("a/b")), 80)
    assert max(map(len, shown_lines)) <= 80
    assert ":9000 " in shown_lines[1]
    assert shown_lines[1].startswith("eu-")
    assert "name  unhealthy" in shown_lines[1]
    whole = tunnel_lines(status(long), None)
    assert long["dial"] in whole[1], "no cuts if the output is no terminal"


def test_a_remote_tunnel_shows_that_the_server_listens() -> None:
    remote = tunnel("prod/hook", type="remote", listen="127.0.0.1:8080", dial="localhost:3000")
    wide = tunnel("prod/all", type="remote", listen="0.0.0.0:8080")
    path = tunnel("prod/path", type="remote", listen="/run/there.sock")
    shown_lines = tunnel_lines(status(remote, wide, path), 80)
    assert "(server):8080 " in shown_lines[1]
    assert "(server)0.0.0.0:8080 " in shown_lines[2]
    assert "(server)/run/there.sock " in shown_lines[3]


def test_an_unbound_port_is_any_and_a_range_is_not_cut() -> None:
    dial = "clickhouse-replica-2.analytics.eu-central-1.internal:9000"
    shown = status(
        tunnel("eu-central-analytics/any", "off", listen="127.0.0.1:0", dial=dial, message="paused", off="paused"),
        tunnel("eu-central-analytics/range", "connecting", listen="127.0.0.1:23210-23219", dial=dial),
        tunnel("eu-central-analytics/back", "pending", type="remote", listen="0.0.0.0:0", dial=dial),
        tunnel("eu-central-analytics/ten", "pending", listen="127.0.0.1:10", dial=dial),
    )
    shown_lines = tunnel_lines(shown, 80)
    assert max(map(len, shown_lines)) <= 80
    assert " 127.0.0.1:any " in shown_lines[1]
    assert " 127.0.0.1:23210-23219 " in shown_lines[2]
    assert " (server)0.0.0.0:any " in shown_lines[3]
    assert " 127.0.0.1:10 " in shown_lines[4]


def test_a_small_screen_shows_the_most_important_first() -> None:
    many = [tunnel(f"a/t{number}") for number in range(50)]
    own = tunnel("a/own", "down", reason="local_port_in_use", message="taken by nginx")
    shared = [tunnel(f"b/t{number}", "down", message="gone") for number in range(3)]
    shown = status(*many, *shared, own, tunnel("a/y", "off", message="disabled", off="disabled"), tunnel("a/z"))
    shown_lines = lines(shown, NOW, 80, 23)
    assert len(shown_lines) == 23
    assert [line.split()[0] for line in tunnel_lines(shown, 80, 23)[:6]] == [
        *("TUNNEL", "a/own", "b/t0", "b/t1", "b/t2", "a/t0")
    ]
    [rest] = [line for line in shown_lines if "more tunnels" in line]
    assert rest.removeprefix("…").removeprefix("...") == " and 47 more tunnels: 46 up, 1 disabled"
    assert {"a/own has been down for 1m (local_port_in_use):", "b/t0, b/t1, b/t2 have been down for 1m:"} <= {
        *shown_lines
    }
    assert shown_lines[-1] == "51 of 55 tunnels up, 1 off or in standby; file read 2h ago."


@pytest.mark.parametrize("columns", [60, 80, 132])
@pytest.mark.parametrize("height", [3, 8, 12, 19, 23, 40])
def test_no_screen_is_too_small(columns: int, height: int) -> None:
    message = "十文字の名前のデータベース " * 8
    bad = [tunnel(f"a/t{number}", "down", message=f"problem {number}: {message}") for number in range(30)]
    off = [tunnel(f"t{number}/x", "off", message="paused", off="paused") for number in range(30)]
    failed = {"at": ago(60), "from": "127.0.0.1:51234", "result": "denied", "message": message}
    up = [tunnel(f"b/t{number}", listen=f"/run/{'数' * number}.sock", lastClientFailure=failed) for number in range(30)]
    shown_lines = lines(status(*bad, *off, *up), NOW, columns, height)
    assert len(shown_lines) <= height
    assert max(map(text_width, shown_lines)) <= columns
    assert "30 of 60 tunnels up" in "\n".join(shown_lines[-2:]), "the summary is always shown"


def test_a_screen_is_used_up_to_its_last_line() -> None:
    """Lines that the problems leave free go to the tunnels, and those that the tunnels leave free go to the targets."""
    tunnels = [tunnel(f"a/t{number}") for number in range(60)]
    targets = [tunnel(f"t{number}/x") for number in range(60)]
    for shown in (status(*tunnels), status(*targets)):
        assert len(lines(shown, NOW, 80, 23)) == 23
    whole = lines(status(*tunnels), NOW, 80)
    assert lines(status(*tunnels), NOW, 80, len(whole)) == whole


def test_an_output_that_is_no_terminal_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("LINES", raising=False)
    assert (width(), height()) == (None, None)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "24")
    assert (width(), height()) == (60, 23)


def test_wide_characters_keep_the_columns_aligned() -> None:
    shown = status(
        tunnel("a/x", listen="/run/データベース.sock"),
        tunnel("a/y", listen="/run/e\u0301.sock"),
        tunnel("a/z", listen=f"/run/{'数' * 40}.sock"),
    )
    shown_lines = tunnel_lines(shown, 80)[:4]
    assert len({text_width(line[: line.index("db:5432")]) for line in shown_lines[1:]}) == 1
    assert max(map(text_width, shown_lines)) <= 80
    assert shown_lines[3].endswith("1m"), "the path is cut"


def test_columns_leave_a_narrow_table_in_their_order() -> None:
    shown = status(tunnel("a/x", listen="127.0.0.1:15000-15999", dial="database.internal.example.com:5432"))
    titles = {width: tunnel_lines(shown, width)[0] for width in (80, 60)}
    assert "LEADS TO" in titles[80]
    assert "LEADS TO" not in titles[60]
    assert "LISTENS ON" in titles[60]
    assert max(map(text_width, lines(shown, NOW, 40))) <= 40


def target_row(**fields: Any) -> str:
    shown = status(tunnel("a/x"))
    shown["targets"][0] |= cast("TargetJson", fields)
    return lines(shown, NOW, 120)[1]


def test_a_target_shows_its_host_round_trip_and_next_try() -> None:
    hosts = ["a:22", "b:22"]
    assert target_row(host="b:22", hosts=hosts).split() == ["a", "up", "b:22", "(2", "of", "2)", "1m"]
    down = {"phase": "down", "host": None, "since": ago(300)}
    assert target_row(**down, hosts=["a:22"]).split() == ["a", "down", "a:22", "5m"], "the only one needs no search"
    assert "none of 2" in target_row(**down, hosts=hosts)
    for seconds, text in ((0.00023, "0.2ms"), (0.0123, "12ms"), (1.5, "1500ms"), (None, "")):
        assert f" {text} " in target_row(rttSeconds=seconds), seconds
    for fields, text in (
        ({"nextTryAt": ago(-27), "nextTryWait": "reconnect"}, "in 28s (backoff)"),
        ({"nextTryAt": ago(-3), "nextTryWait": "quick"}, "in 4s"),
        ({"nextTryAt": ago(-7199), "nextTryWait": "certificate"}, "in 2h (certificate)"),
        ({"nextTryAt": ago(-600), "nextTryWait": "guarded", "needsAction": True}, "in 10m (needs action)"),
        ({"nextTryAt": ago(1), "nextTryWait": "quick"}, "now"),
        ({"needsAction": True}, "after a fix"),
        ({"phase": "standby"}, "with a client"),
    ):
        assert target_row(**{**down, **fields}).endswith(f"  {text}"), fields


@pytest.mark.parametrize(
    ("wait", "reason", "text"),
    [
        ("reconnect", "dns", "Next try in 1m: `reconnect` sets the delay, which grows with each failure."),
        ("quick", "refused", "Next try in 1m: after at most a tenth of the outage."),
        ("certificate", "certificate_expired", "Next try in 1m, when the certificate becomes valid; at once when"),
        ("guarded", "auth", "Next try in 1m: servers block clients that repeat failed logins; at once when"),
        (None, "dns", "Next try in 1m."),
    ],
)
def test_a_next_try_that_is_far_off_says_why(wait: str | None, reason: str, text: str) -> None:
    shown = status(tunnel("a/x", "down", reason=reason, message="it failed"), next_try=60)
    shown["targets"][0]["nextTryWait"] = wait
    assert text in " ".join(map(str.strip, lines(shown, NOW, 80)))
    shown["targets"][0]["nextTryAt"] = ago(-2)
    assert "`reconnect`" not in "\n".join(lines(shown, NOW, 80)), "not for one that is near"


def failure(seconds: float, origin: str | None, message: str) -> dict[str, Any]:
    return {"at": ago(seconds), "from": origin, "result": "dial_failed", "message": message}


def test_the_last_client_failure_is_part_of_the_problem_of_its_tunnel() -> None:
    message = "db:5432 refuses connections from the SSH server: start the service there"
    shown = status(
        tunnel(
            "a/x",
            "unhealthy",
            reason="destination",
            message=f"{message} (retried with the next client)",
            lastClientFailure=failure(125, "127.0.0.1:51234", message),
        ),
        tunnel("b/x", "down", message="gone", lastClientFailure=failure(300, "127.0.0.1:1", "no SSH connection")),
        tunnel("b/y", "down", message="gone", lastClientFailure=failure(30, None, "no SSH connection within 10 s")),
    )
    shown_lines = lines(shown, NOW, 100)
    assert "  Last client failure 2m ago: 127.0.0.1:51234." in shown_lines
    assert "  Last client failure 30s ago: a client: no SSH connection within 10 s" in shown_lines


def test_the_last_client_failures_of_healthy_tunnels_are_shown_newest_first() -> None:
    ages = {"a/x": 7200, "a/y": 60, "a/z": 600}
    shown = status(
        *(tunnel(name, lastClientFailure=failure(age, "127.0.0.1:9", "refused")) for name, age in ages.items())
    )
    shown_lines = lines(shown, NOW, 80)
    assert shown_lines[shown_lines.index("Last client failures:") :] == [
        "Last client failures:",
        "  a/y 1m ago: 127.0.0.1:9: refused",
        "  a/z 10m ago: 127.0.0.1:9: refused",
        "  a/x 2h ago: 127.0.0.1:9: refused",
        "",
        "3 tunnels up; file read 2h ago.",
    ]
    many = [tunnel(f"a/{n}", lastClientFailure=failure(n, "127.0.0.1:9", "refused")) for n in range(9)]
    assert "  and 4 more, of other tunnels" in lines(status(*many), NOW, 80)


def test_a_target_that_is_down_is_shown_though_its_tunnels_have_other_problems() -> None:
    shown = status(tunnel("a/x", "down", reason="local_port_in_use", message="taken by nginx"))
    shown["targets"][0] |= {"reason": "refused", "message": "bastion refuses", "nextTryAt": ago(-3)}
    assert {"a has been down for 1m (refused):", "  bastion refuses"} <= {*lines(shown, NOW, 80)}


def test_control_characters_from_a_server_are_escaped() -> None:
    shown_lines = "\n".join(lines(status(tunnel("a/x", "down", message="\x1b[2Jgone\nfake line")), NOW, 80))
    assert "\x1b" not in shown_lines
    assert "\nfake" not in shown_lines


def test_extra_columns_are_shown_if_they_fit() -> None:
    columns = (Column("A", least=3), Column("B", extra=True))
    rows = [[Cell("a" * 10), Cell("b" * 10)]]
    assert table(columns, rows, 22)[1] == f"{'a' * 10}  {'b' * 10}"
    assert table(columns, rows, 21)[1] == "a" * 10
    assert table(columns, rows, None)[0].split() == ["A", "B"]


def test_times_sizes_and_cuts_are_short() -> None:
    assert [span(one) for one in (0, 59, 60, 3600, 90000, None)] == ["0s", "59s", "1m", "1h", "1d", ""]
    assert [size(one) for one in (0, 999, 1000, 1234, 10**6, 10**10)] == ["0B", "999B", "1.0K", "1.2K", "977K", "9.3G"]
    assert shortened("database.internal:5432", 12) in ("databa…:5432", "databa~:5432")
    assert printable("a\tb\x7f") == "a\\tb\\x7f"


def test_a_fault_of_the_reconcile_loop_is_shown() -> None:
    shown_lines: StatusJson = {**status(tunnel("a/b")), "fault": "internal error: see the log"}
    shown = "\n".join(lines(shown_lines, NOW, None))
    assert "internal error: see the log." in shown
