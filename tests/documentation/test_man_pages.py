"""The man pages: mandoc finds no mistake in them, and they show every command, option and field as it is typed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from generate.commands import every_command
from reconciler.config.schema.document import definition, schema
from reconciler.config.schema.reference import SECTIONS

MAN = Path(__file__).parents[2] / "docs" / "man"
PAGES = sorted(MAN.iterdir())


def mandoc(page: Path, *options: str) -> str:
    done = subprocess.run(["mandoc", *options, page], capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


def shown(name: str) -> str:
    """Return the text of a page as `man` shows it, in one line."""
    text = mandoc(MAN / name, "-Tutf8", "-Owidth=100")
    return " ".join(re.sub(r".\x08", "", text).split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_man_page_has_no_mistake(page: Path) -> None:
    """A generated page has no date: it would change without its content."""
    found = mandoc(page, "-Tlint", "-Wwarning").splitlines()
    assert [line for line in found if "missing date" not in line] == []


def test_the_page_of_the_program_shows_every_command_with_its_options() -> None:
    text = shown("tunnels.1")
    for command in every_command():
        assert command.usage in text
        assert [form for option in command.options for form in option.forms if form not in text] == []


def test_the_page_of_the_program_shows_examples_as_they_are_typed() -> None:
    text = shown("tunnels.1")
    for command in every_command():
        for block in command.blocks:
            if block.is_example:
                assert [line for line in block.text.splitlines() if " ".join(line.split()) not in text] == []


def test_the_page_of_the_file_shows_every_field() -> None:
    text = shown("tunnels.yaml.5")
    for found in (schema(), *(definition(name) for name, _ in SECTIONS)):
        assert found["description"].replace("`", "") in text
        assert [name for name in found["properties"] if f" {name} " not in text] == []
