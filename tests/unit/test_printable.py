"""Text from outside is shown with its hidden characters as escapes."""

from __future__ import annotations

import logging
import sys
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner

from reconciler.cli.main import main
from reconciler.cli.terminal import logs
from reconciler.core.text.printable import printable

HIDDEN = [
    *range(0x20),
    *range(0x7F, 0xA1),
    0x61C,  # Arabic letter mark
    *range(0x200B, 0x2010),  # zero width, and the marks of direction
    *range(0x2028, 0x202F),  # line and paragraph separators, embeddings and overrides of direction
    *range(0x2060, 0x2070),  # word joiner, isolates of direction
    0xFEFF,
    0xAD,
    0x34F,
    0x3164,
    0x115F,
    0x180E,
    0x2800,
    *range(0xFE00, 0xFE10),  # variation selectors
    *range(0xE0000, 0xE0080),  # tags
    *range(0xE0100, 0xE01F0),
    0xD800,
    0xDFFF,
    0xE000,  # private use
    0x10FFFF,
]


def test_hidden_characters_are_shown_as_escapes() -> None:
    for code in HIDDEN:
        shown = printable(f"a{chr(code)}b")
        assert shown.startswith("a\\"), hex(code)
        assert shown.isascii(), hex(code)
        assert shown.encode().decode("unicode_escape") == f"a{chr(code)}b"


def test_every_character_of_a_hidden_category_is_escaped() -> None:
    for code in range(sys.maxunicode + 1):
        if code != 0x20 and unicodedata.category(chr(code)) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"):
            assert printable(chr(code)).isascii(), hex(code)


@pytest.mark.parametrize("text", ["", "a b", "Grüße", "日本語", "עברית", "é", "→ ✓ …", "C:\\x1b", "\N{GRINNING FACE}"])
def test_visible_characters_are_not_escaped(text: str) -> None:
    assert printable(text) == text


def test_the_limit_counts_shown_characters() -> None:
    assert printable("x" * 10, 10) == "x" * 10
    assert printable("\u202e" * 1000, 10) == "\\u202e\\u2…"
    assert printable("x" * 1_000_000, 10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    "hidden", ["\u202e", "\u2066", "\u200b", "\ufeff", "\u2028", "\x85", "\U000e0041", "\u061c", "\udcff"]
)
def test_a_log_line_shows_what_is_hidden_in_it(hidden: str) -> None:
    formatter = logs._Text()
    record = logging.makeLogRecord({"msg": "tunnel %s is up", "args": (f"a{hidden}b",), "levelname": "INFO"})
    record.labels = {"team": f"x{hidden}y"}
    assert printable(hidden) in (line := formatter.format(record))
    assert hidden not in line
    error = ValueError(f"a{hidden}b")
    record.exc_info = (type(error), error, None)
    assert hidden not in formatter.format(record)


FILE = """\
targets:
  prod:
    host: "ho\\u202est"
    user: "u\\u200b"
    agent: true
    "na\\u202eme": 1
    tunnels:
      - {local: "1:h:1", description: "\\u2066d\\u2069", labels: {"te\\u200bam": "x"}, type: "lo\\ufeffcal"}
"""


def test_check_shows_what_is_hidden_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("a\u202eb.yaml")
    path.write_text(FILE, "utf-8")
    for arguments in (["check", str(path)], ["check", "--output", "json", str(path)], ["plan", str(path)]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert printable(result.output.replace("\n", "")) == result.output.replace("\n", ""), arguments
        assert "\\u202e" in result.output


@pytest.mark.parametrize(
    "arguments",
    [["no\u202esuch"], ["st\u202eatus"], ["--no\u202e"], ["status", "--no\u200bsuch"], ["run", "--shard", "a\x1b[31m"]],
)
def test_wrong_usage_shows_what_is_hidden_in_an_argument(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert printable(result.output.replace("\n", "")) == result.output.replace("\n", "")
