"""`tunnels import` reads generated command lines and ssh_config files as `ssh -G` does."""

from __future__ import annotations

import json
import os
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fuzz.driver import Fuzz
from reconciler.cli.import_ import command
from reconciler.config.effective_json import to_json
from reconciler.config.load import load_text
from reconciler.config.options import Options
from support.ssh_g import Printed, assert_agrees, line_of, lines_of, printed_by_ssh

_HOSTS = st.sampled_from(["bastion", "db.example.com", "a-1.example", "10.0.0.7"])
_USERS = st.sampled_from(["me", "deploy", "a.b"])
_PORTS = st.integers(1, 65535)


# --- command lines that ssh accepts -----------------------------------------------------------------------------


class Line(NamedTuple):
    """Arguments of ssh in random order, with the host last."""

    options: tuple[tuple[str, ...], ...]
    host: str

    @property
    def words(self) -> list[str]:
        return ["ssh", *(word for option in self.options for word in option), self.host]


def _forwards(letter: str) -> SearchStrategy[tuple[str, ...]]:
    spec = st.builds(lambda first, host, last: f"{first}:{host}:{last}", _PORTS, _HOSTS, _PORTS)
    bound = spec.map(lambda one: f"127.0.0.1:{one}")
    return (spec | bound).flatmap(lambda one: st.sampled_from([(f"-{letter}", one), (f"-{letter}{one}",)]))


_OPTIONS: SearchStrategy[tuple[str, ...]] = st.one_of(
    _forwards("L"),
    _forwards("R"),
    _PORTS.map(lambda port: ("-D", str(port))),
    _PORTS.flatmap(lambda port: st.sampled_from([("-p", str(port)), (f"-p{port}",), ("-o", f"Port={port}")])),
    _USERS.flatmap(lambda user: st.sampled_from([("-l", user), ("-o", f"User {user}"), (f"-oUser={user}",)])),
    st.sampled_from([("-N",), ("-fN",), ("-T",), ("-C",), ("-v",), ("-4",), ("-o", "ServerAliveInterval=30")]),
)
_LINES = st.builds(
    Line,
    st.lists(_OPTIONS, max_size=6).map(tuple),
    st.builds(lambda user, host: f"{user}{host}", st.just("") | _USERS.map(lambda user: f"{user}@"), _HOSTS),
)


def imported(*arguments: str, text: str = "") -> tuple[str, str, int]:
    ran = CliRunner().invoke(command, list(arguments), input=text)
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran.stdout, ran.stderr, ran.exit_code


def target_of(text: str, ssh: Printed) -> Mapping[str, Any]:
    """Return the one target of a file in the form of `check --output json`."""
    loaded = load_text(text, environ=os.environ, options=Options(user=ssh["user"][0]))
    assert loaded.errors == ()
    (target,) = json.loads(json.dumps(to_json(loaded.desired)))["targets"].values()
    found: Mapping[str, Any] = target
    return found


def assert_imported_as_ssh_understands_it(line: Line) -> None:
    ssh = printed_by_ssh("-F", "/dev/null", *line.words[1:])
    out, err, _ = imported("--ssh-config", "/dev/null", "--", *line.words)
    if not out:
        assert "nothing to forward" in err
        return
    target = target_of(out, ssh)
    made, asked = Counter(map(line_of, target["tunnels"])), Counter(lines_of(ssh))
    if "another tunnel already listens on" in err:
        assert made <= asked, "it makes a forward that ssh would not"
        asked = made
        ssh = {**ssh, "localforward": [], "remoteforward": [], "dynamicforward": []}
        target = {**target, "tunnels": []}
    assert made == asked, "a forward is lost without a word"
    assert_agrees(target, ssh)


def test_command_lines_are_imported_as_ssh_reads_them(fuzz: Fuzz) -> None:
    fuzz.run(_LINES, assert_imported_as_ssh_understands_it, examples=60)


# --- ssh_config -------------------------------------------------------------------------------------------------

_PATTERNS = st.sampled_from(["*", "bastion", "db.*", "!bastion", "*.example*", "a-?.example", "10.0.0.7", "!10.*"])
_SETTINGS = st.one_of(
    _PORTS.map(lambda port: ("Port", str(port))),
    _USERS.map(lambda user: ("User", user)),
    st.sampled_from([("HostName", "one.example"), ("HostName", "two.example"), ("ServerAliveInterval", "15")]),
    st.sampled_from([("hostname", "three.example"), ("COMPRESSION", "yes"), ("User", "me")]),
)
_SPACES = st.sampled_from([" ", "  ", "\t", "=", " = "])


@st.composite
def _config_lines(draw: st.DrawFn) -> str:
    if draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(["", "# a comment", "   ", "\t# User nobody"]))
    if draw(st.integers(0, 2)) == 0:
        return (
            f"{draw(st.sampled_from(['Host', 'host']))} {' '.join(draw(st.lists(_PATTERNS, min_size=1, max_size=3)))}"
        )
    name, value = draw(_SETTINGS)
    quoted = f'"{value}"' if draw(st.booleans()) else value
    return f"{draw(st.sampled_from(['', '  ', chr(9)]))}{name}{draw(_SPACES)}{quoted}"


_CONFIGS = st.lists(_config_lines(), max_size=10).map("\n".join)


def test_ssh_config_is_imported_as_ssh_reads_it(fuzz: Fuzz, tmp_path: Path) -> None:
    path = tmp_path / "config"

    def assert_same(asked: tuple[str, str]) -> None:
        text, host = asked
        path.write_text(text)
        line = ("-L", "1:h:2", host)
        ssh = printed_by_ssh("-F", str(path), *line)
        out, _, _ = imported("--ssh-config", str(path), "--", "ssh", *line)
        assert_agrees(target_of(out, ssh), ssh)

    fuzz.run(st.tuples(_CONFIGS, _HOSTS), assert_same, examples=60)


# --- anything ---------------------------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    shlex.split(
        "ssh autossh -L -R -D -J -p -i -l -o -F -N -W -M -g -- && | ; > 1:h:2 u@h ssh://u@h:9 [::1]:1:[::2]:2 a,b,c "
        "Host * Match all Include x Port=x ProxyJump=a,b ProxyCommand none LocalForward IdentityFile=%d/x %h %% ~ $X"
    )
) | st.sampled_from(["\n", "\n  ", "\\\n", '"', "'", "\0", "é", "\u2028", "\x1b[31m", "#", "=", " ", "\t"])
_TEXTS = st.lists(_PIECES, max_size=14).map(" ".join) | st.text(max_size=60)


def assert_carried_or_named(asked: tuple[str, bool]) -> None:
    """For any text the output is a valid file. Exit code 1 and a message report anything that is lost."""
    text, commands = asked
    out, err, code = imported(*(["--allow-commands"] if commands else []), text=text)
    if out:
        loaded = load_text(out, environ=os.environ, options=Options(user="me", allow_commands=commands))
        assert loaded.errors == ()
    assert code == (1 if "not translated: " in err else 0)
    assert out or code == 1
    assert "\x1b" not in err, "what was read goes to the terminal as it is"


def test_any_text_is_imported_or_reported(fuzz: Fuzz, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nonexistent")
    fuzz.run(st.tuples(_TEXTS, st.booleans()), assert_carried_or_named, examples=80)
