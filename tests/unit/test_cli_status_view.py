"""The text of `tunnels status`, and how it fits the terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

from reconciler.cli.responses import StatusJson, TargetJson, TunnelJson
from reconciler.cli.terminal.status_view import lines
from reconciler.cli.terminal.table import Cell, Column, shortened, size, span, table
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
    shared = ("phase", "reason", "message", "needsAction")
    targets = [{"name": name, "nextTryAt": due} | {field: one[field] for field in shared} for name, one in last.items()]
    file = {"path": "tunnels.yaml", "valid": error is None, "error": error}
    return {
        "version": "1.2.3",
        "instance": "tunnels-0",
        "config": cast("Any", {"files": [file], "revision": "r", "loadedAt": ago(7200), "converged": True}),
        "targets": cast("list[TargetJson]", targets),
        "tunnels": list(tunnels),
    }


def test_a_shared_problem_is_one_paragraph_with_its_next_try() -> None:
    message = "bastion:22 refuses connections: start the SSH server there"
    down = [tunnel(f"prod/{name}", "down", reason="refused", message=message, held=1) for name in "abcde"]
    shown_lines = lines(status(*down, next_try=12), NOW, 80)
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
    assert "Next try" not in "\n".join(lines(held, NOW, 80))


def test_a_tunnel_that_is_off_says_why_and_does_not_count() -> None:
    shown_lines = lines(
        status(tunnel("a/x"), tunnel("a/y", "off", message="paused", off="paused"), tunnel("a/z", "standby")), NOW, 80
    )
    assert shown_lines[2].split()[:2] == ["a/y", "paused"]
    assert shown_lines[4:] == ["", "1 tunnel up, 2 off or in standby; file read 2h ago."], "no text appears twice"


def test_a_timed_pause_shows_its_end() -> None:
    paused = tunnel("a/y", "off", message="paused until 2026-11-22T13:00:00Z", off="paused")
    shown_lines = lines(status(tunnel("a/x"), paused), NOW, 80)
    assert shown_lines[2].split()[:2] == ["a/y", "paused"], "the column stays narrow"
    assert shown_lines[4:6] == ["a/y is off:", "  paused until 2026-11-22T13:00:00Z"]


def test_the_message_of_a_target_that_is_up_is_shown() -> None:
    message = "still using the old connection, the new one failed: refused the login"
    shown = status(tunnel("a/x", message=message), tunnel("a/y", message=message), next_try=60)
    shown["targets"][0]["reason"], shown["targets"][0]["needsAction"] = "auth", True
    assert lines(shown, NOW, 100)[4:] == [
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
    assert lines(shown, NOW, 100)[3:5] == ["a is up (auth):", "  the old one goes on"]
    assert "  Needs action: retrying fails until this is fixed." in lines(shown, NOW, 100)


def test_a_connection_to_a_later_host_is_shown() -> None:
    shown = status(tunnel("a/x"), tunnel("a/y"), tunnel("b/x"))
    shown["targets"][0]["message"] = "on b:22, host 2 of 2: retrying a:22 every 60 s"
    assert lines(shown, NOW, 100)[5:] == [
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
    shown_lines = lines(status(long, tunnel("a/b")), NOW, 80)
    assert max(map(len, shown_lines)) <= 80
    assert ":9000 " in shown_lines[1]
    assert shown_lines[1].startswith("eu-")
    assert "name  unhealthy" in shown_lines[1]
    whole = lines(status(long), NOW, None)
    assert long["dial"] in whole[1], "no cuts if the output is no terminal"


def test_a_remote_tunnel_shows_that_the_server_listens() -> None:
    remote = tunnel("prod/hook", type="remote", listen="127.0.0.1:8080", dial="localhost:3000")
    wide = tunnel("prod/all", type="remote", listen="0.0.0.0:8080")
    path = tunnel("prod/path", type="remote", listen="/run/there.sock")
    shown_lines = lines(status(remote, wide, path), NOW, 80)
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
    shown_lines = lines(shown, NOW, 80)
    assert max(map(len, shown_lines)) <= 80
    assert " 127.0.0.1:any " in shown_lines[1]
    assert " 127.0.0.1:23210-23219 " in shown_lines[2]
    assert " (server)0.0.0.0:any " in shown_lines[3]
    assert " 127.0.0.1:10 " in shown_lines[4]


def test_a_small_screen_leaves_out_healthy_tunnels() -> None:
    many = [tunnel(f"a/t{number}") for number in range(50)]
    shown_lines = lines(status(*many, tunnel("a/bad", "down", message="gone")), NOW, 80, 20)
    assert len(shown_lines) <= 20
    assert shown_lines[1].startswith("a/bad")
    assert shown_lines[2].endswith("and 50 healthy tunnels")


def test_a_very_small_screen_shows_the_top() -> None:
    bad = [tunnel(f"a/t{number}", "down", message=f"problem {number}") for number in range(5)]
    whole = lines(status(*bad), NOW, 80)
    shown_lines = lines(status(*bad), NOW, 80, 11)
    assert shown_lines[:10] == whole[:10]
    assert shown_lines[10].removeprefix("…").removeprefix("...") == f" and {len(whole) - 10} more lines"
    assert lines(status(*bad), NOW, 80, len(whole)) == whole


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
