"""The fenced blocks of the Markdown pages, and the commands in them.

The info string of a block is a language and, for a block of commands, how it is run (`Mode`):

    console             each command ends, exits 0, and prints the lines below it
    console exit=1      the last command exits with 1
    console stays       the last command runs until `^C` or the end of the page, and prints the lines at some time
    console log         no command: lines that the last command of a `stays` block prints at some time
    console eventually  the commands are repeated until they print the lines
    console step=NAME   something happens before, outside the terminal of the reader: a step of `lab.sh`
    console not-run     the page or the block has its reason in `kinds.py`

A line `...` stands for any lines, and `...` at the end of a line for the rest of it. Commands without lines below them
may print anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
_NAME = re.compile(r"^# (?P<name>[\w./~-]+\.\w+|[~/][\w./-]+)(?:\s.*)?$")


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a `console` block, and the lines that it prints."""

    command: str
    output: tuple[str, ...]
    is_interrupted: bool = False  # a line ^C is below it


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    options: dict[str, str] = field(hash=False)
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """The name in its first line, `# tunnels.yaml`: the file that the block is the content of."""
        found = _NAME.match(self.text.split("\n", 1)[0])
        return found["name"] if found else None

    @property
    def steps(self) -> list[Step]:
        return _steps(self.text)


def pages() -> list[Path]:
    """Return every page with text for users."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(path: Path) -> list[Block]:
    """Return the fenced blocks of a page in their order."""
    page, blocks = path.relative_to(ROOT).as_posix(), list[Block]()
    lines = iter(enumerate(path.read_text().split("\n"), 1))
    for number, line in lines:
        opening = _FENCE.match(line)
        if opening is None:
            continue
        inner = list[str]()
        for _, content in lines:
            closing = _FENCE.match(content)
            if closing and closing["fence"].startswith(opening["fence"]) and not closing["info"].strip():
                break
            inner.append(content.removeprefix(opening["indent"]))
        language, _, rest = opening["info"].strip().partition(" ")
        options = {key: value for key, _, value in (word.partition("=") for word in rest.split())}
        blocks.append(Block(page, number, language, options, "\n".join(inner) + "\n"))
    return blocks


def _steps(text: str) -> list[Step]:
    """Return the commands: `$ ` begins one, `> ` and the line after a backslash continue it."""
    found, command, output = list[Step](), "", list[str]()
    is_interrupted = continues = False
    for line in [*text.rstrip("\n").split("\n"), "$ "]:
        if command and continues:
            command += "\n" + line.removeprefix("> ")
        elif command and not output and line.startswith("> "):
            command += "\n" + line[2:]
        elif line == "^C":
            is_interrupted = True
        elif line.startswith("$ "):
            if command or output:
                found.append(Step(command, tuple(output), is_interrupted))
            command, output, is_interrupted = line[2:], [], False
        else:
            output.append(line)
        continues = line.endswith("\\") and (line.startswith("$ ") or continues)
    return found
