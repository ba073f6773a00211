"""A text to search, and the names of its lines in messages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """A text. `name` is its file, "" for none. `line` is the number of its first line."""

    text: str
    name: str
    line: int = 1
    is_one_line: bool = False

    def place(self, number: int) -> str:
        """Return the place of a line, counted from the first line of the file."""
        if self.is_one_line and self.name:
            return self.name
        return f"{self.name} line {number}".lstrip()

    def lines(self) -> list[tuple[int, str]]:
        return list(enumerate(self.text.split("\n"), start=self.line))

    def joined(self, between: str, comments: str = "") -> list[tuple[int, str]]:
        """Return the lines. A line that ends in a backslash is joined with the next one.

        between   replaces the backslash and the end of the line
        comments  signs that start a comment; a comment does not end a joined line
        """
        made: list[tuple[int, str]] = []
        parts: list[str] = []
        first = self.line
        for number, line in self.lines():
            first = first if parts else number
            is_comment = line.lstrip().startswith(tuple(comments))
            if is_comment and parts:
                continue
            if line.endswith("\\") and not is_comment:
                parts.append(line[:-1])
                continue
            made.append((first, between.join([*parts, line])))
            parts = []
        return [*made, (first, between.join(parts))] if parts else made
