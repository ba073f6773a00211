"""Each file in tests/configs/bad has one kind of mistake. The .txt file beside it has the expected messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.config.load import load_files, load_text
from reconciler.config.options import Options

BAD = Path(__file__).parent.parent / "configs" / "bad"
CASES = sorted(path for path in BAD.iterdir() if path.suffix != ".txt")
ENVIRON = {"HOME": "/home/me", "WORD": "word"}
OPTIONS = Options(user="me", now=1_780_000_000.0)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_a_bad_file_gets_errors_that_say_what_is_expected(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BAD)
    loaded = load_files([case.name], environ=ENVIRON, options=OPTIONS)
    assert [str(problem) for problem in loaded.errors] == (BAD / f"{case.stem}.txt").read_text("utf-8").splitlines()
    assert loaded.errors
    assert not loaded.valid


def test_each_expectation_has_its_file() -> None:
    assert {path.stem for path in BAD.glob("*.txt")} == {path.stem for path in CASES}


def test_twenty_mistakes_are_reported_at_once_each_with_its_line() -> None:
    text = (BAD / "twenty-mistakes.yaml").read_text("utf-8")
    lines = {problem.line for problem in load_text(text).errors}
    assert len(lines) >= 20
    assert 0 not in lines


def test_a_file_of_more_than_a_mebibyte_is_refused() -> None:
    (problem,) = load_text("targets: {}\n" + "#" * 1024 * 1024).errors
    assert str(problem) == "tunnels.yaml: larger than 1024 KiB: split it into several files"


def test_no_message_shows_a_secret() -> None:
    loaded = load_text("targets: {a: {host: a, password: [hunter2], passphrase: true, user: {x: 1}}}")
    assert "hunter2" not in repr(loaded)
