"""Random bytes as a configuration file: it loads, or it has errors with their places. It never raises."""

from __future__ import annotations

import re

import yaml

from fuzz.driver import Fuzz
from fuzz.grammar import documents, valid_texts
from reconciler.config.effective_json import to_json
from reconciler.config.load import Loaded, load_text
from reconciler.config.options import Options
from reconciler.config.problem import ErrorCode, Problem

ENVIRON = {"HOME": "/home/me", "PORT": "15432", "PW": "sesame", "X": "x", "EMPTY": ""}
OPTIONS = Options(user="me", now=1_780_000_000.0, allow_commands=True)
_YAML_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # YAML 1.1 section 5.4 has more line ends than editors


def load(data: str | bytes) -> Loaded:
    return load_text(data, environ=ENVIRON, options=OPTIONS)


def assert_loads_or_says_why(data: bytes) -> None:
    """Check the invariants for any bytes."""
    loaded = load(data)
    assert loaded == load(data), "the same bytes gave another answer"
    (file,) = loaded.files
    assert file.valid == loaded.valid == loaded.usable
    assert bool(loaded.revision) == loaded.valid
    text = data.decode("utf-8", "replace")
    for problem in (*loaded.errors, *loaded.warnings):
        assert problem.message
        assert "\n" not in str(problem), "one problem, one line"
        if problem.line:
            found = (is_inside(problem, lines) for lines in (text.split("\n"), _YAML_LINE_END.split(text)))
            assert any(found), f"{problem} lies beyond the end of the file or of its line"
        else:
            assert problem.code in (ErrorCode.UNREADABLE, ErrorCode.SYNTAX), f"{problem} does not say where"


def is_inside(problem: Problem, lines: list[str]) -> bool:
    """Return True if the place is inside the text or directly after it, where something is missing."""
    if problem.line > len(lines):
        return problem.line == len(lines) + 1 and problem.column == 1
    return 1 <= problem.column <= len(lines[problem.line - 1]) + 1


def assert_effective_text_loads_the_same(text: str) -> None:
    """The output of `check --output json` for a valid file, written as YAML, loads as the same configuration."""
    loaded = load(text)
    shows_all = "Secret(***)" not in repr(loaded.desired)
    if loaded.valid and shows_all:
        again = load(yaml.safe_dump(to_json(loaded.desired), allow_unicode=False, sort_keys=False))
        assert not again.errors
        assert again.desired == loaded.desired


def test_any_bytes_load_or_have_errors_with_places(fuzz: Fuzz) -> None:
    fuzz.run(documents, assert_loads_or_says_why, examples=150)


def test_the_effective_configuration_loads_as_the_same(fuzz: Fuzz) -> None:
    fuzz.run(valid_texts, assert_effective_text_loads_the_same, examples=60)
