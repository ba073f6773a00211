"""ssh command lines and configuration files are parsed as ssh parses them."""

from __future__ import annotations

import pytest

from reconciler.cli.ssh_import.ssh_options import NotSshError, command_line, lines_of, ssh_config


def keywords(line: str) -> list[tuple[str, str]]:
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
def test_every_spelling_of_a_command_gives_the_same_keywords(line: str) -> None:
    command = command_line(line, "")
    assert (command.host, command.lost) == ("a", [])
    assert keywords(line) == [("localforward", "1:h:2")]


def test_m_takes_a_port_in_autossh_and_no_value_in_ssh() -> None:
    assert command_line("ssh -M 0", "").host == "0"
    assert command_line("autossh -M 0 a", "").host == "a"


def test_a_destination_may_contain_user_and_port() -> None:
    assert keywords("ssh u@h") == [("user", "u")]
    assert keywords("ssh ssh://u@h:2200") == [("user", "u"), ("port", "2200")]
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
def test_the_first_of_option_and_destination_counts(line: str, user: str, port: str | None) -> None:
    first = dict(reversed(keywords(line)))
    assert (first["user"], first.get("port")) == (user, port)


def test_o_options_are_parsed_in_each_form() -> None:
    for form in ("-oPort=22", "-o Port=22", "-o 'Port 22'", "-o 'Port = 22'"):
        assert keywords(f"ssh {form} a") == [("port", "22")]


@pytest.mark.parametrize("line", ["echo hello", "ssh -N", "ssh -L '1:h:2 a", "", "ssh -o nonsense a"])
def test_a_line_without_an_ssh_command_is_refused(line: str) -> None:
    with pytest.raises(NotSshError):
        command_line(line, "")


def test_words_before_and_after_the_command_are_reported() -> None:
    assert command_line("sshpass -e ssh a && echo done", "").lost == [
        "sshpass: words before ssh are ignored",
        "&& echo: words after the command are ignored",
    ]


def test_a_backslash_joins_lines_and_comments_are_skipped() -> None:
    assert list(lines_of("# no\n\nssh \\\n  a\nssh b\n")) == [(3, "ssh    a"), (5, "ssh b")]


def test_ssh_config_gives_each_host_its_keywords_in_order() -> None:
    config = ssh_config(
        [("c", "Port 1\nHost a b !x\n Port=2\nhost x*\n\tport 3\nMatch user me\n Port 4\nMatch all\nUser u\n")]
    )
    assert [one.value for one in config.of("a")] == ["1", "2", "u"]
    assert [one.value for one in config.of("xa")] == ["1", "3", "u"]
    assert config.hosts() == ["a", "b"]
    assert config.lost == ("c:6: Match user me: only Host blocks are supported",)
