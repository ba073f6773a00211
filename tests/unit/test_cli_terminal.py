"""What files, servers and the running process say is shown, and drives no terminal."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from reconciler.cli.client import Trouble
from reconciler.cli.main import main
from reconciler.cli.terminal.table import complain

TAG = "targets: !<%1b]0;owned%07> {}\n"  # a title for the window, were it printed as it is
PLAIN = "targets: {a: {host: b.example.com, user: u, agent: true}}\n"


def complaint(*arguments: str) -> str:
    result = CliRunner().invoke(main, [*arguments], env={"TUNNELS_CONTROL": "/nonexistent/tunnels.sock"})
    assert result.exit_code in (1, 2)
    assert not [c for c in result.output if not c.isprintable() and c != "\n"]
    return result.stderr


@pytest.mark.parametrize("command", ["check", "plan", "trust"])
def test_a_tag_with_an_escape_is_not_obeyed(command: str, tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    file.write_text(TAG)
    said = complaint(command, str(file))
    assert f"{file}:1:10: tags are not supported" in said
    assert "owned" not in said


def test_so_is_one_in_the_file_to_compare_with(tmp_path: Path) -> None:
    new, old = tmp_path / "new.yaml", tmp_path / "old.yaml"
    new.write_text(PLAIN)
    old.write_text(TAG)
    said = complaint("plan", str(new), "--from", str(old))
    assert f"{old}:1:10: tags are not supported" in said
    assert "owned" not in said


@pytest.mark.parametrize("command", ["check", "plan"])
def test_and_one_in_the_name_of_a_file(command: str, tmp_path: Path) -> None:
    file = tmp_path / "\x1b[31m.yaml"
    file.write_text("targets: [\n")
    assert r"error: " in complaint(command, str(file))
    file.write_text(PLAIN)
    result = CliRunner().invoke(main, ["check", str(file)])
    assert result.stdout == f"{tmp_path}/\\x1b[31m.yaml: valid, 1 target and 0 tunnels\n"


def test_a_target_that_is_none_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "tunnels.yaml"
    file.write_text(PLAIN)
    assert r"no target is called x\x1b[2J;" in complaint("trust", str(file), "x\x1b[2J")


def test_trouble_is_one_clean_line(capsys: pytest.CaptureFixture[str]) -> None:
    Trouble("it said \x1b]0;owned\x07\nerror: \x9b31m").show()
    assert capsys.readouterr().err == r"error: it said \x1b]0;owned\x07\nerror: \x9b31m" + "\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("tell", [lambda said: Trouble(said).show(), lambda said: complain("error", said)])
def test_an_error_is_wrapped_between_words_where_it_goes_to_a_terminal(
    tell: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "not within 30 s: " + "; ".join(f"prod/tunnel-{number} is down (refused)" for number in range(20))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((60, 24)))
    for stream, fits in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        tell(said)
        lines = stream.getvalue().splitlines()
        assert (max(map(len, lines)) <= 60) is fits
        assert all(line.startswith("  ") for line in lines[1:])
        assert " ".join(line.strip() for line in lines) == f"error: {said}"


def test_json_has_no_raw_control_character_either(tmp_path: Path) -> None:
    """JSON itself escapes U+001B and leaves U+009B as it is."""
    file = tmp_path / "tunnels.yaml"
    file.write_text("targets: !<%c2%9b31m%1b[31m> {}\n")
    for command in ("check", "plan"):
        result = CliRunner().invoke(main, [command, str(file), "--output", "json"])
        assert result.exit_code == 2
        assert not [c for c in result.stdout if not c.isprintable() and c != "\n"]
        [error] = json.loads(result.stdout)["errors"]
        assert error.startswith(f"{file}:1:10: tags are not supported")


def test_the_only_place_of_secrets_has_to_be_named() -> None:
    result = CliRunner().invoke(main, ["check", "--secrets-dir-only"])
    assert result.exit_code == 2
    assert "--secrets-dir-only goes with --secrets-dir DIR" in result.output
