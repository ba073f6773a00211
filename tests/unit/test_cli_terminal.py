"""Control characters from files, servers and the running process are escaped in all output."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from reconciler.cli.client import CommandError
from reconciler.cli.main import main
from reconciler.cli.terminal.table import print_message

TAG = "targets: !<%1b]0;owned%07> {}\n"  # sets the window title if it is printed raw
PLAIN = "targets: {a: {host: b.example.com, user: u, agent: true}}\n"


def error_of(*arguments: str) -> str:
    result = CliRunner().invoke(main, [*arguments], env={"TUNNELS_CONTROL": "/nonexistent/tunnels.sock"})
    assert result.exit_code in (1, 2)
    assert not [c for c in result.output if not c.isprintable() and c != "\n"]
    return result.stderr


@pytest.mark.parametrize("command", ["check", "plan", "trust"])
def test_an_escape_sequence_in_a_tag_is_escaped(command: str, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    file.write_text(TAG)
    error = error_of(command, str(file))
    assert f"{file}:1:10: tags are not supported" in error
    assert "owned" not in error


def test_an_escape_sequence_in_the_old_file_is_escaped(tmp_path: Path) -> None:
    new, old = tmp_path / "new.yaml", tmp_path / "old.yaml"
    new.write_text(PLAIN)
    old.write_text(TAG)
    error = error_of("plan", str(new), "--from", str(old))
    assert f"{old}:1:10: tags are not supported" in error
    assert "owned" not in error


@pytest.mark.parametrize("command", ["check", "plan"])
def test_an_escape_sequence_in_a_file_name_is_escaped(command: str, tmp_path: Path) -> None:
    file = tmp_path / "\x1b[31m.yaml"
    file.write_text("targets: [\n")
    assert r"error: " in error_of(command, str(file))
    file.write_text(PLAIN)
    result = CliRunner().invoke(main, ["check", str(file)])
    assert result.stdout == f"{tmp_path}/\\x1b[31m.yaml: valid, 1 target and 0 tunnels\n"


def test_an_escape_sequence_in_a_target_name_is_escaped(tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    file.write_text(PLAIN)
    assert r'no target matches "x\x1b[2J":' in error_of("trust", str(file), "x\x1b[2J")


def test_an_error_is_one_escaped_line(capsys: pytest.CaptureFixture[str]) -> None:
    CommandError("it sent \x1b]0;owned\x07\nerror: \x9b31m").show()
    assert capsys.readouterr().err == r"error: it sent \x1b]0;owned\x07\nerror: \x9b31m" + "\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("show", [lambda text: CommandError(text).show(), lambda text: print_message("error", text)])
def test_an_error_is_wrapped_between_words_on_a_terminal(
    show: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    message = "timed out after 30 s: " + "; ".join(f"prod/tunnel-{number} is down (refused)" for number in range(20))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((60, 24)))
    for stream, fits in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        show(message)
        lines = stream.getvalue().splitlines()
        assert (max(map(len, lines)) <= 60) is fits
        assert all(line.startswith("  ") for line in lines[1:])
        assert " ".join(line.strip() for line in lines) == f"error: {message}"


def test_json_has_no_raw_control_characters(tmp_path: Path) -> None:
    """JSON escapes U+001B but not U+009B."""
    file = tmp_path / "tunnels.yaml"
    file.write_text("targets: !<%c2%9b31m%1b[31m> {}\n")
    for command in ("check", "plan"):
        result = CliRunner().invoke(main, [command, str(file), "--output", "json"])
        assert result.exit_code == 2
        assert not [c for c in result.stdout if not c.isprintable() and c != "\n"]
        [error] = json.loads(result.stdout)["errors"]
        assert error.startswith(f"{file}:1:10: tags are not supported")


def test_secrets_dir_only_needs_secrets_dir() -> None:
    result = CliRunner().invoke(main, ["check", "--secrets-dir-only"])
    assert result.exit_code == 2
    assert "--secrets-dir-only needs --secrets-dir DIR" in result.output
