"""Reads the words and operators of shell text."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from reconciler.cli.ssh_import.sources.shell.tree import (
    Arithmetic,
    Array,
    HereDocument,
    Literal,
    Part,
    Script,
    Substitution,
    Variable,
    Word,
)
from reconciler.cli.ssh_import.sources.values import WorkBudget

MAX_DEPTH = 30  # of commands, substitutions and defaults inside each other
_TOKEN, _PART = 25, 8  # the cost of reading a token and a part of a word, in characters

_BLANK = re.compile(r"(?:[ \t\r\f\v]|\\[ \t\r]*\n)+")  # accepts spaces between a backslash and the end of the line
_COMMENT = re.compile(r"#[^\n]*")
_OPERATOR = re.compile(r"&&|\|\||;;&|;;|;&|;|\|&|\||&>>|&>|&|<<<|<<-|<<|<&|<>|>&|>>|>\||[<>()]")
_PLAIN = re.compile(r"[^ \t\r\f\v\n|&;()<>'\"\\$`]+")
_IN_BRACES = re.compile(r"[^'\"\\$`}]+")
_IN_QUOTES = re.compile(r"[^\"\\$`]+")
_IN_DOCUMENT = re.compile(r"[^\\$`]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]|[@*#?$!-]")
_IN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-]")
_INDEX = re.compile(r"\[(\$\{\w+\}|[^\]\n{}]*)\]")
_CHANGE = re.compile(r":?[-=?+]|##?|%%?|//?|\^\^?|,,?|:|@")
_IN_BACKTICKS = re.compile(r"[^`\\]*")
_PARENTHESIS = re.compile(r"[()]")
_PREFIX = re.compile(r"[!#](?=[A-Za-z_0-9@*])")
_PLACEHOLDER = re.compile(r"<[A-Za-z][\w .-]{0,60}>(?=[\s:@]|$)")  # `<host>` in instructions is no redirection
_ARRAY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=\(")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "e": "\x1b", "f": "\f", "v": "\v"}


class ShellSyntaxError(Exception):
    """The text is not valid shell: `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Token:
    """A word, an operator (`newline` at the end of a line), or the end of the text (an empty operator)."""

    line: int
    operator: str = ""
    word: Word | None = None

    @property
    def plain(self) -> str:
        return plain(self.word or ())


def plain(word: Word) -> str:
    """Return the text of a word without quotes and variables, "" for any other word."""
    only = word[0] if len(word) == 1 else None
    return only.text if isinstance(only, Literal) and not only.quoted else ""


class WordReader:
    """Splits text into tokens. `parse` reads the commands inside `$( )`, which a parser provides."""

    def __init__(
        self, text: str, line: int, depth: int, budget: WorkBudget, parse: Callable[[WordReader, str], Script]
    ) -> None:
        if depth > MAX_DEPTH:
            raise ShellSyntaxError("commands are nested too deeply")
        self.text = text
        self.depth = depth
        self.at = 0
        self._line, self._counted = line, 0
        self._parse = parse
        self._budget = budget
        self._pending: list[tuple[str, bool, bool, list[HereDocument]]] = []

    # --- tokens ---------------------------------------------------------------------------------------------------

    def next(self) -> Token:
        self._skip()
        self._budget.spend(_TOKEN)
        line = self.line()
        if self.at >= len(self.text):
            return Token(line)
        if self.text[self.at] == "\n":
            self.at += 1
            self._documents()
            return Token(line, "newline")
        found = _OPERATOR.match(self.text, self.at)
        if found is not None and not (found[0] == "<" and _PLACEHOLDER.match(self.text, self.at)):
            self.at = found.end()
            return Token(line, found[0])
        return Token(line, word=self.word())

    def line(self) -> int:
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def _skip(self) -> None:
        while True:
            for pattern in (_BLANK, _COMMENT):
                if (found := pattern.match(self.text, self.at)) is not None:
                    self.at = found.end()
                    break
            else:
                return

    def skip_past(self, end: str) -> str:
        """Move behind the next `end`. Returns the text before it."""
        found = self.text.find(end, self.at)
        if found < 0:
            raise ShellSyntaxError(f"no closing {end}")
        before, self.at = self.text[self.at : found], found + len(end)
        return before

    def is_redirection(self) -> bool:
        """Return True if `<` or `>` follows at once: a number before it is a file descriptor."""
        return self.text[self.at : self.at + 1] in ("<", ">")

    # --- here-documents -------------------------------------------------------------------------------------------

    def expect_document(self, delimiter: Word, tabs: bool, documents: list[HereDocument]) -> None:
        """Read a here-document after the end of this line, into `documents`."""
        quoted = any(not isinstance(part, Literal) or part.quoted for part in delimiter)
        end = "".join(part.text for part in delimiter if isinstance(part, Literal))
        self._pending.append((end, quoted, tabs, documents))

    def _documents(self) -> None:
        pending, self._pending = self._pending, []
        for end, quoted, tabs, documents in pending:
            line = self.line()
            lines: list[str] = []
            while self.at < len(self.text):
                stop = self.text.find("\n", self.at)
                stop = len(self.text) if stop < 0 else stop
                one, self.at = self.text[self.at : stop], min(stop + 1, len(self.text))
                one = one.lstrip("\t") if tabs else one
                if one == end:
                    break
                lines.append(f"{one}\n")
            body = "".join(lines)
            if quoted:
                documents.append(HereDocument((Literal(body, quoted=True),), line))
            else:
                inner = WordReader(body, line, self.depth + 1, self._budget, self._parse)
                documents.append(HereDocument(tuple(inner.inside_quotes(_IN_DOCUMENT, "")), line))

    # --- words ----------------------------------------------------------------------------------------------------

    def word(self) -> Word:
        array = _ARRAY.match(self.text, self.at)
        if array is not None:
            self.at = array.end()
            return (Array(array[1], bool(array[2]), self._items()),)
        return tuple(self._parts(_PLAIN))

    def _items(self) -> tuple[Word, ...]:
        """Read the words of an array up to its closing parenthesis."""
        items: list[Word] = []
        while True:
            token = self.next()
            if token.word is not None:
                items.append(token.word)
            elif token.operator == ")":
                return tuple(items)
            elif token.operator != "newline":
                raise ShellSyntaxError("no closing parenthesis of an array")

    def _parts(self, run: re.Pattern[str]) -> list[Part]:
        """Read the parts of a word: text that matches `run`, quotes and variables. Ends at any other character."""
        parts: list[Part] = []
        while self.at < len(self.text):
            self._budget.spend(_PART)
            found = run.match(self.text, self.at)
            if found is not None:
                parts.append(Literal(found[0]))
                self.at = found.end()
                continue
            sign = self.text[self.at]
            if sign == "<" and (placeholder := _PLACEHOLDER.match(self.text, self.at)):
                parts.append(Literal(placeholder[0], quoted=True))
                self.at = placeholder.end()
            elif sign == "\\":
                self._escape(parts)
            elif sign == "'":
                self.at += 1
                parts.append(Literal(self.skip_past("'"), quoted=True))
            elif sign == '"':
                self.at += 1
                parts += [Literal("", quoted=True), *self.inside_quotes(_IN_QUOTES, '"')]
            elif sign in "$`":
                parts.append(self._dollar(quoted=False))
            else:
                break
        return parts

    def _escape(self, parts: list[Part]) -> None:
        following = self.text[self.at + 1 : self.at + 2]
        self.at += 2 if following else 1
        if following not in ("", "\n"):
            parts.append(Literal(following, quoted=True))

    def inside_quotes(self, run: re.Pattern[str], end: str) -> list[Part]:
        """Read the inside of double quotes, or of a here-document if `end` is empty."""
        parts: list[Part] = []
        while self.at < len(self.text):
            self._budget.spend(_PART)
            found = run.match(self.text, self.at)
            if found is not None:
                parts.append(Literal(found[0], quoted=True))
                self.at = found.end()
                continue
            sign = self.text[self.at]
            if sign == end:
                self.at += 1
                return parts
            if sign == "\\":
                following = self.text[self.at + 1 : self.at + 2]
                self.at += 2
                if following != "\n":
                    is_escaped = following != "" and following in f"$`\\{end}"
                    parts.append(Literal(following if is_escaped else sign + following, quoted=True))
            else:
                parts.append(self._dollar(quoted=True))
        if end:
            raise ShellSyntaxError('no closing "')
        return parts

    def _dollar(self, quoted: bool) -> Part:
        rest = self.text[self.at : self.at + 3]
        if rest.startswith("`"):
            return self._backticks(quoted)
        if rest == "$((":
            return self._arithmetic(quoted)
        if rest.startswith("$("):
            self.at += 2
            return Substitution(self._parse(self, ")"), quoted)
        if rest.startswith("${"):
            self.at += 2
            return self._braces(quoted)
        if rest.startswith("$'") and not quoted:
            self.at += 2
            return Literal(self._ansi(), quoted=True)
        if rest.startswith('$"') and not quoted:
            self.at += 1
            return Literal("", quoted=True)  # a translated string: the quotes follow
        found = _NAME.match(self.text, self.at + 1)
        if found is None:
            self.at += 1
            return Literal("$", quoted)
        self.at = found.end()
        return Variable(found[0], quoted)

    def _ansi(self) -> str:
        made: list[str] = []
        while self.at < len(self.text):
            sign = self.text[self.at]
            self.at += 1
            if sign == "'":
                return "".join(made)
            if sign == "\\":
                sign = self.text[self.at : self.at + 1]
                self.at += 1
                sign = _ESCAPES.get(sign, sign)
            made.append(sign)
        raise ShellSyntaxError("no closing '")

    def _backticks(self, quoted: bool) -> Part:
        line, start = self.line(), self.at + 1
        self.at = start
        made: list[str] = []
        while True:
            before = _IN_BACKTICKS.match(self.text, self.at)
            self.at = before.end() if before else self.at
            made.append(before[0] if before else "")
            sign, following = self.text[self.at : self.at + 1], self.text[self.at + 1 : self.at + 2]
            if not sign:
                raise ShellSyntaxError("no closing `")
            if sign == "`":
                break
            made.append(following if following in "$`\\" else sign + following)
            self.at += 2
        self.at += 1
        inner = WordReader("".join(made), line, self.depth + 1, self._budget, self._parse)
        return Substitution(self._parse(inner, ""), quoted)

    def _arithmetic(self, quoted: bool) -> Part:
        start, level = self.at, 0
        for found in _PARENTHESIS.finditer(self.text, self.at):
            level += 1 if found[0] == "(" else -1
            if level == 0:
                if self.text[found.start() - 1] != ")":
                    break  # a substitution that begins with a group
                self.at = found.end()
                return Arithmetic(self.text[start + 3 : found.start() - 1])
        else:
            raise ShellSyntaxError("no closing ))")
        self.at += 2
        return Substitution(self._parse(self, ")"), quoted)

    def _braces(self, quoted: bool) -> Part:
        """Read the inside of `${...}`."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ShellSyntaxError("variables are nested too deeply")
        prefix = ""
        if _PREFIX.match(self.text, self.at):
            prefix = self.text[self.at]
            self.at += 1
        name, index, operator = _IN_NAME.match(self.text, self.at), None, None
        if name is not None:
            self.at = name.end()
            index = _INDEX.match(self.text, self.at)
            self.at = index.end() if index else self.at
            operator = _CHANGE.match(self.text, self.at)
            self.at = operator.end() if operator else self.at
        operand = self._parts(_IN_BRACES)
        if self.text[self.at : self.at + 1] != "}":
            raise ShellSyntaxError("no closing }")
        self.at += 1
        self.depth -= 1
        if name is None or prefix or (operand and operator is None):
            return Variable(name[0] if name else "{", quoted, prefix or "unsupported")
        changed = tuple(operand)
        return Variable(name[0], quoted, operator[0] if operator else "", changed, index[1] if index else "")


def read_template(text: str, budget: WorkBudget) -> Word:
    """Read a text as the inside of a here-document."""
    return tuple(WordReader(text, 1, 0, budget, lambda _reader, _end: ()).inside_quotes(_IN_DOCUMENT, ""))
