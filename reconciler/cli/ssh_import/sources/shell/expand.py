"""Replaces variables in words of shell text, and splits the result, as a shell does."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from reconciler.cli.ssh_import.sources.shell.scope import Scope
from reconciler.cli.ssh_import.sources.shell.tree import (
    Arithmetic,
    Array,
    Literal,
    Script,
    Simple,
    Substitution,
    Variable,
    Word,
)
from reconciler.cli.ssh_import.sources.values import Argument, Unknown, WorkBudget, joined

_SPACES = re.compile(r"([ \t\n]+)")
_SUM = re.compile(r"\s*\$?(?:\{(\w+)\}|(\w+))\s*(?:([-+*])\s*\$?(?:\{(\w+)\}|(\w+))\s*)?")
_BRACES = re.compile(r"([^{},]*)\{([^{}]*)\}([^{},]*)")
_RANGE = re.compile(r"([0-9]{1,5})\.\.([0-9]{1,5})")
_PATTERN_MAX = 400  # characters of a value that a pattern is removed from
_RANGE_MAX = 100


class Expander:
    """Expands words. `run` carries out the commands of a substitution, which may start ssh too."""

    def __init__(self, scope: Scope, budget: WorkBudget, run: Callable[[Script], None]) -> None:
        self._scope = scope
        self._budget = budget
        self._run = run

    def words(self, words: list[Word] | tuple[Word, ...]) -> list[Argument]:
        """Expand words to arguments: an unquoted variable may give several, or none."""
        return [argument for word in words for argument in self._split(word)]

    def text(self, word: Word) -> Argument:
        """Expand a word without splitting it."""
        whole = joined(
            [Argument(part.text) if isinstance(part, Literal) else joined(self._values(part), " ") for part in word]
        )
        self._budget.spend(len(whole.text) + 1)
        return whole

    def _split(self, word: Word) -> list[Argument]:
        if len(word) == 1 and isinstance(word[0], Literal) and not word[0].quoted:
            return [Argument(text) for text in self._braces(word[0].text)]
        made = _Fields()
        for part in word:
            if isinstance(part, Literal):
                made.add(Argument(part.text))
            elif isinstance(part, Arithmetic):
                made.add(*self._values(part))
            elif isinstance(part, Array):
                made.add(Argument(f"{part.name}="))
            else:
                values = self._values(part)
                if part.quoted and isinstance(part, Variable) and "*" in (part.index, part.name):
                    values = [joined(values, " ")]
                several = isinstance(part, Variable) and (part.index == "@" or part.name == "@")
                for position, value in enumerate(values):
                    if position and (several or not part.quoted):
                        made.end()
                    if part.quoted:
                        made.add(value)
                    else:
                        self._add_split(made, value)
        fields = made.all()
        self._budget.spend(sum(len(one.text) for one in fields) + len(fields) + 1)
        return fields

    def _add_split(self, made: _Fields, value: Argument) -> None:
        if value.unknown is not None:
            made.add(value)
            return
        for piece in _SPACES.split(value.text):
            if piece[:1] in (" ", "\t", "\n"):
                made.end()
            elif piece:
                made.add(Argument(piece))

    def _braces(self, text: str) -> list[str]:
        """Expand `a{1..3}` and `a{x,y}`, of bash."""
        found = _BRACES.fullmatch(text) if "{" in text else None
        if found is None:
            return [text]
        numbers = _RANGE.fullmatch(found[2])
        if numbers is not None and 0 <= int(numbers[2]) - int(numbers[1]) < _RANGE_MAX:
            items = [str(number) for number in range(int(numbers[1]), int(numbers[2]) + 1)]
        elif "," in found[2]:
            items = found[2].split(",")
        else:
            return [text]
        self._budget.spend(len(items) * len(text))
        return [f"{found[1]}{item}{found[3]}" for item in items]

    # --- variables ------------------------------------------------------------------------------------------------

    def _values(self, part: Variable | Substitution | Arithmetic | Array) -> list[Argument]:
        match part:
            case Variable():
                return self._variable(part)
            case Substitution():
                return [self._substituted(part)]
            case Arithmetic():
                return [self._calculated(part.text)]
            case Array():
                return self.words(part.words)

    def _variable(self, part: Variable) -> list[Argument]:  # noqa: C901 - one case for each operator
        value = self._plain_value(part)
        if not part.operator:
            return value if value is not None else [self._missing(part)]
        name, operand = part.name, part.operand
        whole = joined(value, " ") if value is not None else None
        match part.operator:
            case "-" | ":-" | "=" | ":=":
                if whole is None or (part.operator[0] == ":" and whole == Argument("")):
                    default = self.text(operand)
                    if part.operator.endswith("="):
                        self._scope.set(name, default)
                    return [default]
                return value or []
            case "+" | ":+":
                is_set = whole is not None and (part.operator == "+" or whole.text != "")
                return [self.text(operand)] if is_set else []
            case "?" | ":?":
                return value if value is not None and whole != Argument("") else [self._missing(part)]
            case "#" | "##" | "%" | "%%":
                return [self._trimmed(part, whole)]
            case "/" | "//":
                return [self._replaced(part, whole)]
            case "@" | "^^" | "^" | "," | ",,":
                if whole is not None and whole.unknown is None and part.operator in ("^^", ",,") and not operand:
                    return [Argument(whole.text.upper() if part.operator == "^^" else whole.text.lower())]
            case _:
                pass
        return [self._unsupported(part)]

    def _plain_value(self, part: Variable) -> list[Argument] | None:
        """Return the value without the operator, None if the variable is not set."""
        if part.name in ("@", "*"):
            return None if self._scope.positional is None else list(self._scope.positional)
        if part.name.isdecimal():
            positional, number = self._scope.positional, int(part.name[:6])
            if number == 0:
                return None if self._scope.zero is None else [self._scope.zero]
            if positional is None:
                return None
            return [positional[number - 1]] if number <= len(positional) else None
        if part.name == "#" and self._scope.positional is not None:
            return [Argument(str(len(self._scope.positional)))]
        if part.index and part.index not in ("@", "*") and not part.index.isdecimal():
            return self._keyed(part)
        value = self._scope.get(part.name)
        if value is None or isinstance(value, Argument):
            return None if value is None else [value]
        if part.index in ("@", "*"):
            return list(value)
        index = int(part.index[:6]) if part.index.isdecimal() else 0
        return [value[index]] if index < len(value) else None

    def _keyed(self, part: Variable) -> list[Argument] | None:
        """Return the value of `${NAME[KEY]}`, where the key is a word or a variable."""
        key = part.index.strip("'\"")
        if key.startswith("$"):
            held = self._scope.get(key[1:].strip("{}"))
            key = held.text if isinstance(held, Argument) and held.unknown is None else ""
        value = self._scope.get(f"{part.name}[{key}]")
        return [value] if isinstance(value, Argument) else None

    def _missing(self, part: Variable) -> Argument:
        if part.name == "HOME":
            return Argument("~")
        if part.name == "$":
            return Argument("$$", Unknown("`$$` is a process number: write a value in its place"))
        return Argument(f"${{{part.name}}}", self._scope.missing(part.name))

    @staticmethod
    def _unsupported(part: Variable) -> Argument:
        reason = f"`${{{part.name}...}}` uses an operator that is not supported: write its value in its place"
        return Argument(f"${{{part.name}}}", Unknown(reason, part.name))

    def _trimmed(self, part: Variable, value: Argument | None) -> Argument:
        """Remove a pattern at the start (`#`) or at the end (`%`), the shortest or (doubled) the longest match."""
        if value is None or value.unknown is not None:
            return value or self._missing(part)
        text, pattern = value.text, self.text(part.operand)
        if pattern.unknown is not None or len(text) + len(pattern.text) > _PATTERN_MAX:
            return self._unsupported(part)
        self._budget.spend(len(text) * len(text))
        cuts = range(len(text) + 1)
        if part.operator[0] == "#":
            order = cuts if part.operator == "#" else reversed(cuts)
            return next((Argument(text[at:]) for at in order if fnmatchcase(text[:at], pattern.text)), value)
        order = reversed(cuts) if part.operator == "%" else cuts
        return next((Argument(text[:at]) for at in order if fnmatchcase(text[at:], pattern.text)), value)

    def _replaced(self, part: Variable, value: Argument | None) -> Argument:
        if value is None or value.unknown is not None:
            return value or self._missing(part)
        whole = self.text(part.operand)
        old, _, new = whole.text.partition("/")
        if whole.unknown is not None or not old or set(old) & set("*?[") or old[0] in "#%":
            return self._unsupported(part)
        self._budget.spend(len(value.text) * (1 + len(new)))
        return Argument(value.text.replace(old, new, -1 if part.operator == "//" else 1))

    # --- substitutions --------------------------------------------------------------------------------------------

    def _substituted(self, part: Substitution) -> Argument:
        """Return the output of a command if the text determines it: `$(which ssh)`, `$(echo x)`."""
        self._run(part.script)
        only = part.script[0].command if len(part.script) == 1 else None
        if not isinstance(only, Simple) or not only.words:
            return Argument("$(...)", Unknown("`$(...)` is known only when it runs: write its output in its place"))
        words = self.words(only.words)
        program = PurePosixPath(words[0].text).name if words else ""
        last = words[-1] if len(words) > 1 else Argument("")
        match program:
            case "which" | "command" | "type" if last.text:
                return last
            case "echo" | "printf":
                shown = [one for one in words[1:] if one.text not in ("-n", "-e", "%s", "%s\\n")]
                return joined(shown, " ")
            case "cat" if len(words) == 2:
                reason = f"`$(cat)` is the content of {last.text}: write it in its place"
                return Argument("$(cat)", last.unknown or Unknown(reason, file=last.text))
        shown_program = program if re.fullmatch(r"[\w.-]{1,40}", program) else "..."
        reason = f"`$({shown_program})` is known only when it runs: write its output in its place"
        return Argument(f"$({shown_program})", Unknown(reason))

    def _calculated(self, text: str) -> Argument:
        found = _SUM.fullmatch(text)
        numbers = [self._number(name) for name in (found[1] or found[2], found[4] or found[5])] if found else [None]
        if found is None or numbers[0] is None or (found[3] and numbers[1] is None):
            return Argument("$((...))", Unknown("`$((...))` cannot be calculated here: write its value in its place"))
        first, second = numbers[0], numbers[1] or 0
        match found[3]:
            case "+":
                return Argument(str(first + second))
            case "-":
                return Argument(str(first - second))
            case "*":
                return Argument(str(first * second))
            case _:
                return Argument(str(first))

    def _number(self, word: str | None) -> int | None:
        if word and not word.isdecimal():
            value = self._scope.get(word)
            word = value.text if isinstance(value, Argument) and value.unknown is None else ""
        return int(word) if word and word.isascii() and word.isdecimal() and len(word) < 10 else None


class _Fields:
    """Builds the arguments that one word gives."""

    def __init__(self) -> None:
        self._done: list[Argument] = []
        self._parts: list[Argument] = []

    def add(self, *values: Argument) -> None:
        self._parts += values

    def end(self) -> None:
        if self._parts:
            self._done.append(joined(self._parts))
        self._parts = []

    def all(self) -> list[Argument]:
        self.end()
        return self._done
