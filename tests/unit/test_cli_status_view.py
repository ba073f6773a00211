"""What `tunnels status` says, and how it fits the terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, cast

from reconciler.cli.responses import Status, Target, Tunnel
from reconciler.cli.terminal.status_view import lines
from reconciler.cli.terminal.table import Cell, Column, shortened, size, span, table
from reconciler.core.printable import printable

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def tunnel(name: str, phase: str = "up", **fields: Any) -> Tunnel:
    usual = {
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
    return cast("Tunnel", usual | fields)


def status(*tunnels: Tunnel, next_try: float | None = None, error: str | None = None) -> Status:
    """Each target is what the last of its tunnels is."""
    due = ago(-next_try) if next_try else None
    last = {one["target"]: cast("dict[str, Any]", one) for one in tunnels}
    told = ("phase", "reason", "message", "needsAction")
    targets = [{"name": name, "nextTryAt": due} | {field: one[field] for field in told} for name, one in last.items()]
    file = {"path": "tunnels.yaml", "valid": error is None, "error": error}
    return {
        "config": cast("Any", {"files": [file], "revision": "r", "loadedAt": ago(7200), "converged": True}),
        "targets": cast("list[Target]", targets),
        "tunnels": list(tunnels),
    }


def test_a_trouble_that_tunnels_share_is_told_once_with_its_next_try() -> None:
    message = "bastion:22 refuses connections: start the SSH server there"
    down = [tunnel(f"prod/{name}", "down", reason="refused", message=message, held=1) for name in "abcde"]
    said = lines(status(*down, next_try=12), NOW, 80)
    assert said[7:] == [
        "prod/a, prod/b, prod/c and 2 more of prod have been down for 1m (refused):",
        f"  {message}",
        "  5 clients wait for it.",
        "  Next try in 13s.",
        "",
        "0 of 5 tunnels up; file read 2h ago.",
    ]


def test_where_a_person_is_needed_it_says_so_and_what_makes_it_try_at_once() -> None:
    down = tunnel("prod/a", "down", reason="auth", message="refused to log in", needsAction=True)
    said = "\n".join(lines(status(down, next_try=60), NOW, 80))
    assert "This needs you: trying again will not help until something is changed." in said
    assert "Next try in 1m; at once when a file that it names changes." in said


def test_a_next_try_of_another_trouble_is_not_this_ones() -> None:
    down = tunnel("prod/a", "down", reason="local_port_in_use", message="taken by nginx")
    held = status(down, next_try=60)
    held["targets"][0]["reason"], held["targets"][0]["message"] = "auth", "refused to log in"
    assert "Next try" not in "\n".join(lines(held, NOW, 80))


def test_what_is_off_says_why_and_does_not_count() -> None:
    said = lines(status(tunnel("a/x"), tunnel("a/y", "off", message="paused"), tunnel("a/z", "standby")), NOW, 80)
    assert said[2].split()[:2] == ["a/y", "paused"]
    assert said[4:] == ["", "1 tunnel up, 2 off or standing by; file read 2h ago."], "nothing is said twice"


def test_a_pause_that_ends_by_itself_says_when() -> None:
    paused = tunnel("a/y", "off", message="paused until 2026-11-22T13:00:00Z")
    said = lines(status(tunnel("a/x"), paused), NOW, 80)
    assert said[2].split()[:2] == ["a/y", "paused"], "the column stays narrow"
    assert said[4:6] == ["a/y is off:", "  paused until 2026-11-22T13:00:00Z"]


def test_an_old_connection_that_goes_on_is_told_though_it_is_up() -> None:
    message = "still using the old connection, the new one failed: refused to log in"
    shown = status(tunnel("a/x", message=message), tunnel("a/y", message=message), next_try=60)
    shown["targets"][0]["reason"], shown["targets"][0]["needsAction"] = "auth", True
    assert lines(shown, NOW, 100)[4:] == [
        "a/x, a/y are up (auth):",
        f"  {message}",
        "  This needs you: trying again will not help until something is changed.",
        "  Next try in 1m; at once when a file that it names changes.",
        "",
        "2 tunnels up; file read 2h ago.",
    ]


def test_what_no_tunnel_says_for_its_target_is_told_too() -> None:
    shown = status(tunnel("a/x", "off", message="paused"))
    shown["targets"][0] |= {"phase": "up", "reason": "auth", "message": "the old one goes on", "needsAction": True}
    assert lines(shown, NOW, 100)[3:5] == ["a is up (auth):", "  the old one goes on"]
    assert "  This needs you: trying again will not help until something is changed." in lines(shown, NOW, 100)


def test_a_host_that_is_not_the_first_choice_is_a_note() -> None:
    shown = status(tunnel("a/x"), tunnel("a/y"), tunnel("b/x"))
    shown["targets"][0]["message"] = "on b:22, host 2 of 2: retrying a:22 every 60 s"
    assert lines(shown, NOW, 100)[5:] == [
        "a is up:",
        "  on b:22, host 2 of 2: retrying a:22 every 60 s",
        "",
        "3 tunnels up; file read 2h ago.",
    ]


def test_a_trouble_says_what_the_tunnel_is_for() -> None:
    down = [
        tunnel(f"a/{name}", "down", message="gone", description=text) for name, text in (("x", "Orders"), ("y", ""))
    ]
    assert "a/x (Orders), a/y have been down for 1m:" in lines(status(*down), NOW, 80)


def test_a_process_that_ends_says_so_and_who_is_still_there() -> None:
    leaving = tunnel(
        "a/x", "draining", connections=2, message="the process is ending: waiting for its last clients to finish"
    )
    for tunnels, said in (
        ((leaving,), "The process is ending: 2 clients may finish, nobody new comes in."),
        ((), "The process is ending."),
    ):
        shown = status(*tunnels)
        shown["ending"] = True
        assert lines(shown, NOW, 80)[-1] == said


def test_a_host_key_that_is_not_checked_is_told() -> None:
    shown = status(tunnel("prod/a"), tunnel("safe/b"))
    shown["targets"][0]["hostKeyVerified"], shown["targets"][1]["hostKeyVerified"] = False, True
    assert [line for line in lines(shown, NOW, None) if "NOT checked" in line] == [
        "prod: host key NOT checked (strictHostKeyChecking: false), so it may be anybody."
    ]


def test_a_file_that_is_not_valid_is_told() -> None:
    said = lines(status(tunnel("a/x"), error="tunnels.yaml:3:5: unknown key"), NOW, 80)
    assert "tunnels.yaml is not valid: what it said before still holds." in said
    assert "  tunnels.yaml:3:5: unknown key" in said


def test_it_fits_80_columns_and_keeps_ports_and_ends() -> None:
    long = tunnel(
        "eu-central-analytics/clickhouse-replica-with-a-long-name",
        "unhealthy",
        dial="clickhouse-replica-2.analytics.eu-central-1.internal:9000",
        message="word " * 60,
    )
    said = lines(status(long, tunnel("a/b")), NOW, 80)
    assert max(map(len, said)) <= 80
    assert ":9000 " in said[1]
    assert said[1].startswith("eu-")
    assert "name  unhealthy" in said[1]
    whole = lines(status(long), NOW, None)
    assert long["dial"] in whole[1], "nothing is cut where it does not go to a terminal"


def test_a_remote_tunnel_shows_that_the_server_listens() -> None:
    remote = tunnel("prod/hook", type="remote", listen="127.0.0.1:8080", dial="localhost:3000")
    wide = tunnel("prod/all", type="remote", listen="0.0.0.0:8080")
    path = tunnel("prod/path", type="remote", listen="/run/there.sock")
    said = lines(status(remote, wide, path), NOW, 80)
    assert "(server):8080 " in said[1]
    assert "(server)0.0.0.0:8080 " in said[2]
    assert "(server)/run/there.sock " in said[3]


def test_a_port_that_is_still_to_be_chosen_is_told_in_a_word_and_a_range_is_not_cut() -> None:
    dial = "clickhouse-replica-2.analytics.eu-central-1.internal:9000"
    shown = status(
        tunnel("eu-central-analytics/any", "off", listen="127.0.0.1:0", dial=dial, message="paused"),
        tunnel("eu-central-analytics/range", "connecting", listen="127.0.0.1:23210-23219", dial=dial),
        tunnel("eu-central-analytics/back", "pending", type="remote", listen="0.0.0.0:0", dial=dial),
        tunnel("eu-central-analytics/ten", "pending", listen="127.0.0.1:10", dial=dial),
    )
    said = lines(shown, NOW, 80)
    assert max(map(len, said)) <= 80
    assert " 127.0.0.1:any " in said[1]
    assert " 127.0.0.1:23210-23219 " in said[2]
    assert " (server)0.0.0.0:any " in said[3]
    assert " 127.0.0.1:10 " in said[4]


def test_a_screen_that_is_too_small_leaves_out_what_is_well() -> None:
    many = [tunnel(f"a/t{number}") for number in range(50)]
    said = lines(status(*many, tunnel("a/bad", "down", message="gone")), NOW, 80, 20)
    assert len(said) <= 20
    assert said[1].startswith("a/bad")
    assert said[2].endswith("and 50 tunnels that are well")


def test_of_a_screen_that_is_too_small_for_the_troubles_the_top_is_shown() -> None:
    bad = [tunnel(f"a/t{number}", "down", message=f"trouble {number}") for number in range(5)]
    whole = lines(status(*bad), NOW, 80)
    said = lines(status(*bad), NOW, 80, 11)
    assert said[:10] == whole[:10]
    assert said[10].removeprefix("…").removeprefix("...") == f" and {len(whole) - 10} more lines"
    assert lines(status(*bad), NOW, 80, len(whole)) == whole


def test_what_a_server_sent_does_not_drive_the_terminal() -> None:
    said = "\n".join(lines(status(tunnel("a/x", "down", message="\x1b[2Jgone\nfake line")), NOW, 80))
    assert "\x1b" not in said
    assert "\nfake" not in said


def test_extra_columns_come_where_there_is_room() -> None:
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


def test_a_fault_of_the_reconcile_loop_is_told() -> None:
    said: Status = {**status(tunnel("a/b")), "fault": "a fault of this program: see the log"}
    shown = "\n".join(lines(said, NOW, None))
    assert "a fault of this program: see the log." in shown
