"""ssh's command lines and configuration files, read as ssh reads them."""

from __future__ import annotations

import pytest

from reconciler.cli.ssh_import.ssh_options import NotSshError, command_line, lines_of, ssh_config


def said(line: str) -> list[tuple[str, str]]:
    return [(one.name, one.value) for one in command_line(line, "").keywords]


@pytest.mark.parametrize(
    "line",
    [
        "ssh -N -L 1:h:2 a",
        "ssh -NL1:h:2 a",
        "ssh a -NL 1:h:2",
        "/usr/bin/autossh -M 20000 -f -N a -L 1:h:2",
        "A=b nohup ssh -E log -e none -S sock -L 1:h:2 -- a &",
        "*/5 * * * * ssh -L 1:h:2 a 2>/dev/null",
    ],
)
def test_however_it_is_written_it_asks_for_the_same(line: str) -> None:
    asked = command_line(line, "")
    assert (asked.host, asked.lost) == ("a", [])
    assert said(line) == [("localforward", "1:h:2")]


def test_in_autossh_m_takes_a_port_and_in_ssh_none() -> None:
    assert command_line("ssh -M 0", "").host == "0"
    assert command_line("autossh -M 0 a", "").host == "a"


def test_the_destination_may_hold_user_and_port() -> None:
    assert said("ssh u@h") == [("user", "u")]
    assert said("ssh ssh://u@h:2200") == [("user", "u"), ("port", "2200")]
    assert command_line("ssh ssh://[::1]:22", "").host == "::1"
    assert command_line("ssh a@b@c", "").host == "c"


@pytest.mark.parametrize(
    ("line", "user", "port"),
    [
        ("ssh -l me deploy@bastion", "me", None),
        ("ssh deploy@bastion -l me", "deploy", None),
        ("ssh -o User=x -l me deploy@bastion", "x", None),
        ("ssh -p 5 ssh://deploy@bastion:99", "deploy", "5"),
        ("ssh ssh://deploy@bastion:99 -p 5", "deploy", "99"),
    ],
)
def test_of_an_option_and_the_destination_the_first_on_the_line_counts(line: str, user: str, port: str | None) -> None:
    first = dict(reversed(said(line)))
    assert (first["user"], first.get("port")) == (user, port)


def test_options_of_o_in_each_of_their_forms() -> None:
    for form in ("-oPort=22", "-o Port=22", "-o 'Port 22'", "-o 'Port = 22'"):
        assert said(f"ssh {form} a") == [("port", "22")]


@pytest.mark.parametrize("line", ["echo hello", "ssh -N", "ssh -L '1:h:2 a", "", "ssh -o nonsense a"])
def test_what_is_no_ssh_command_is_refused(line: str) -> None:
    with pytest.raises(NotSshError):
        command_line(line, "")


def test_what_comes_before_and_after_is_told() -> None:
    assert command_line("sshpass -e ssh a && echo done", "").lost == [
        "sshpass: what stands before ssh",
        "&& echo: what follows the command",
    ]


def test_lines_join_at_a_backslash_and_comments_are_none() -> None:
    assert list(lines_of("# no\n\nssh \\\n  a\nssh b\n")) == [(3, "ssh    a"), (5, "ssh b")]


def test_ssh_config_gives_each_host_what_holds_for_it_in_order() -> None:
    config = ssh_config(
        [("c", "Port 1\nHost a b !x\n Port=2\nhost x*\n\tport 3\nMatch user me\n Port 4\nMatch all\nUser u\n")]
    )
    assert [one.value for one in config.of("a")] == ["1", "2", "u"]
    assert [one.value for one in config.of("xa")] == ["1", "3", "u"]
    assert config.hosts() == ["a", "b"]
    assert config.lost == ("c:6: Match user me: only Host blocks are understood",)
