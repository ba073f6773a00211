"""The commands of each page run, in the order of the page, and print what the page says."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest

from documentation import lab
from documentation.blocks import ROOT, blocks_of, pages
from documentation.kinds import NOT_RUN_PAGES, Kind, kind_of
from documentation.lab import Lab, PageError

needs_lab = pytest.mark.skipif(bool(lab.why_not()), reason=lab.why_not())


def runnable() -> list[Path]:
    """Return the pages with commands to run."""
    return [
        path
        for path in pages()
        if not any(fnmatch(path.relative_to(ROOT).as_posix(), pattern) for pattern in NOT_RUN_PAGES)
        and any(kind_of(block) is Kind.COMMANDS and "not-run" not in block.options for block in blocks_of(path))
    ]


def follow(page: Path, directory: Path) -> None:
    """Write the files of a page and run its commands."""
    with Lab(directory, page.read_text()) as reader:
        for block in blocks_of(page):
            if "not-run" in block.options:
                continue
            if kind_of(block) in (Kind.COMMANDS, Kind.LOG):
                reader.follow(block)
            elif block.file_name:
                reader.write(block)


@needs_lab
@pytest.mark.parametrize("page", runnable(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    if missing := lab.missing_programs(page.read_text()):
        pytest.skip(f"not installed: {', '.join(missing)}")
    follow(page, tmp_path)


@needs_lab
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```console\n$ echo a\nb\n```\n", "the page says"),
        ("```console\n$ false\n```\n", "exit code 1"),
        ("```console exit=2\n$ true\n```\n", "exit code 0"),
        ("```console\n$ no-such-command\n```\n", "exit code 127"),
    ],
)
def test_a_wrong_page_is_reported(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("documentation.blocks.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(PageError, match=said):
        follow(page, tmp_path)
