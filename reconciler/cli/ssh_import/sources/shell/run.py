"""Follows the commands of shell text and reports the programs that it starts. Nothing is executed.

Where the text alone does not decide a condition, every branch is followed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from fnmatch import fnmatchcase
from functools import partial

from reconciler.cli.ssh_import.sources.shell.conditions import decided
from reconciler.cli.ssh_import.sources.shell.expand import Expander
from reconciler.cli.ssh_import.sources.shell.parse import parse
from reconciler.cli.ssh_import.sources.shell.scope import Scope
from reconciler.cli.ssh_import.sources.shell.tree import (
    Array,
    Assignment,
    Case,
    Command,
    ForLoop,
    Function,
    Group,
    If,
    Item,
    Negation,
    Script,
    Simple,
    Test,
    WhileLoop,
)
from reconciler.cli.ssh_import.sources.shell.words import ShellSyntaxError
from reconciler.cli.ssh_import.sources.values import (
    Argument,
    InputText,
    Launch,
    Unknown,
    WorkBudget,
    WorkLimitError,
)

_MAX_DEPTH = 12  # of functions that call each other, and of nested conditions
_COMMAND = 40  # the cost of one command, in characters
_DECLARATIONS = frozenset({"export", "declare", "typeset", "readonly", "local"})
_LOCAL = frozenset({"declare", "typeset", "local"})  # in a function, without -g
_KEYED = re.compile(r"\[([^\]]{1,100})\]=(.*)", re.DOTALL)
_NOTHING = frozenset({"exit", "return", "break", "continue", "cd", "trap", "wait", "ulimit", "umask", "hash"})


class _Status(Enum):
    """How a command ends. DONE: it succeeds unless something is wrong; OPEN: a test that the text does not decide."""

    TRUE = 1
    FALSE = 2
    DONE = 3
    OPEN = 4


_INVERSE = {_Status.TRUE: _Status.FALSE, _Status.FALSE: _Status.TRUE}


class Runner:
    """Follows scripts in one scope. `visit` gets each program; `place` turns a line number into a place."""

    def __init__(
        self,
        visit: Callable[[Launch], None],
        budget: WorkBudget,
        environ: Mapping[str, Argument],
        place: Callable[[int], str],
    ) -> None:
        self.scope = Scope(environ, budget)
        self._visit = visit
        self._budget = budget
        self._place = place
        self._expander = Expander(self.scope, budget, self._in_substitution)
        self._functions: dict[str, Command] = {}
        self._called: set[str] = set()
        self._depth = 0

    def run(self, script: Script) -> None:
        """Follow a script. May be called several times."""
        self._script(script)

    def run_uncalled(self) -> None:
        """Follow the functions that the text defines and does not call, such as those of a shell's start file."""
        for name, body in list(self._functions.items()):
            if name not in self._called:
                self._called.add(name)
                self.scope.positional = None
                self.scope.attempt(partial(self._command, body))

    # --- lists ----------------------------------------------------------------------------------------------------

    def _script(self, script: Script) -> _Status:
        status = _Status.DONE
        at = 0
        while at < len(script):
            end = at + 1
            while end < len(script) and script[end].operator != ";":
                end += 1
            status = self._chain(script[at:end])
            at = end
        return status

    def _chain(self, items: tuple[Item, ...]) -> _Status:
        """Follow commands that are joined by `&&`, `||` and `|`."""
        status = self._command(items[0].command) if items else _Status.DONE
        for position in range(1, len(items)):
            item = items[position]
            if item.operator == "|":
                status = self._command(item.command)
            elif status is _Status.OPEN:
                return self._open(items[position:])
            elif item.operator == "&&":
                status = status if status is _Status.FALSE else self._command(item.command)
            elif status is _Status.DONE:
                self.scope.attempt(partial(self._command, item.command))
            elif status is _Status.FALSE:
                status = self._command(item.command)
        return status

    def _open(self, items: tuple[Item, ...]) -> _Status:
        """Follow what comes after a test that is not decided: both sides of the next `||`."""
        stop = next((at for at, item in enumerate(items) if item.operator == "||"), len(items))
        sides = (items[:stop], items[stop:])
        self._branches([partial(self._chain, side) for side in sides])
        return _Status.DONE

    def _branches(self, branches: Iterable[Callable[[], object]]) -> None:
        """Follow each branch from the same variables, and keep what they agree on."""
        self._deeper()
        self.scope.join([self.scope.attempt(branch) for branch in branches])
        self._depth -= 1

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise WorkLimitError

    def _in_substitution(self, script: Script) -> None:
        self.scope.attempt(lambda: self._script(script))

    # --- commands -------------------------------------------------------------------------------------------------

    def _command(self, command: Command) -> _Status:
        self._budget.spend(_COMMAND)
        match command:
            case Simple():
                return self._simple(command)
            case Test(words):
                return self._tested([self._expander.text(word) for word in words])
            case Negation(inner):
                status = self._command(inner)
                return _INVERSE.get(status, _Status.OPEN)
            case Group(body):
                return self._script(body)
            case If():
                return self._if(command.branches, command.otherwise)
            case WhileLoop():
                self._loop(command)
            case ForLoop():
                self._for(command)
            case Case():
                self._case(command)
            case Function(name, body):
                self._functions[name] = body
        return _Status.DONE

    def _if(self, branches: tuple[tuple[Script, Script], ...], otherwise: Script) -> _Status:
        possible: list[Script] = []
        for condition, body in branches:
            status = self._script(condition)
            if status is not _Status.FALSE:
                possible.append(body)
            if status is _Status.TRUE:
                break
        else:
            possible.append(otherwise)
        if len(possible) == 1:
            return self._script(possible[0])
        self._branches([partial(self._script, body) for body in possible])
        return _Status.DONE

    def _loop(self, command: WhileLoop) -> None:
        if self._script(command.condition) is _Status.TRUE:
            self._script(command.body)
        else:
            self._branches([lambda: self._script(command.body), lambda: None])

    def _for(self, command: ForLoop) -> None:
        values = self._expander.words(command.words) if command.words is not None else list(self.scope.positional or ())
        if not values or (command.words is None and self.scope.positional is None):
            reason = f"`${command.name}` of a loop has no value here: write its values in its place"
            values = [Argument(f"${command.name}", Unknown(reason, command.name))]
        for value in values:
            self.scope.set(command.name, value)
            self._script(command.body)

    def _case(self, command: Case) -> None:
        subject = self._expander.text(command.subject)
        if subject.unknown is None and len(subject.text) < 200:
            for patterns, body in command.branches:
                if any(fnmatchcase(subject.text, self._expander.text(pattern).text[:200]) for pattern in patterns):
                    self._script(body)
                    return
            return
        bodies = [*(body for _, body in command.branches), ()]
        self._branches([partial(self._script, body) for body in bodies])

    # --- simple commands ------------------------------------------------------------------------------------------

    def _simple(self, command: Simple) -> _Status:
        words = self._expander.words(command.words) if command.words else []
        if not words:
            for assignment in command.assignments:
                self._assign(assignment)
            return _Status.DONE
        name = words[0].text
        if words[0].unknown is None and (status := self._builtin(name, words, command)) is not None:
            return status
        body = self._functions.get(name)
        if body is not None:
            return self._call(name, body, tuple(words[1:]))
        environment = self.scope.environment()
        for assignment in command.assignments:
            environment[assignment.name] = self._expander.text(assignment.value)
        documents = tuple(
            InputText(self._expander.text(document.body), document.line)
            for document in command.documents
            if command.is_kept or name != "cat"  # cat alone shows it, such as a usage text
        )
        if name in ("echo", "printf") and command.is_kept:
            text = "\n".join(word.text for word in words[1:]).replace("\\n", "\n")
            documents = (*documents, InputText(Argument(text), command.line))
        self._visit(Launch(self._place(command.line), tuple(words), environment, (), documents, command.line))
        return _Status.DONE

    def _call(self, name: str, body: Command, arguments: tuple[Argument, ...]) -> _Status:
        self._called.add(name)
        if self._depth >= _MAX_DEPTH:
            return _Status.DONE
        self._depth += 1
        try:
            return self.scope.call(arguments, partial(self._command, body))
        finally:
            self._depth -= 1

    def _assign(self, assignment: Assignment) -> None:
        first = assignment.value[0] if assignment.value else None
        if isinstance(first, Array):
            self._assign_array(first)
            return
        value = self._expander.text(assignment.value)
        before = self.scope.get(assignment.name)
        if assignment.append and isinstance(before, Argument):
            value = Argument(before.text + value.text, before.unknown or value.unknown)
            self._budget.spend(len(value.text))
        self.scope.set(assignment.name, value)

    def _assign_array(self, array: Array) -> None:
        items = tuple(self._assign_items(array))
        before = self.scope.get(array.name)
        if array.append and before is not None:
            items = ((before,) if isinstance(before, Argument) else before) + items
            self._budget.spend(len(items))
        self.scope.set(array.name, items)

    def _assign_items(self, array: Array) -> Iterator[Argument]:
        """Yield the items of an array. An item `[KEY]=VALUE` is a variable `NAME[KEY]` too."""
        for item in self._expander.words(array.words):
            found = _KEYED.fullmatch(item.text)
            value = Argument(found[2], item.unknown) if found is not None else item
            if found is not None:
                self.scope.set(f"{array.name}[{found[1]}]", value)
            yield value

    def _builtin(self, name: str, words: list[Argument], command: Simple) -> _Status | None:  # noqa: C901, PLR0912
        """Follow a builtin that changes variables. None: it is another program."""
        match name:
            case _ if name in _DECLARATIONS:
                self._declare(name, words[1:], command)
            case _ if name in _NOTHING:
                pass
            case "true" | ":":
                return _Status.TRUE
            case "false":
                return _Status.FALSE
            case "test" | "[":
                return self._tested([word for word in words[1:] if word.text != "]"])
            case "unset":
                for word in words[1:]:
                    self.scope.set(word.text, Argument(""))
            case "read" | "getopts":
                for word in words[1:]:
                    if word.text.isidentifier():
                        reason = f"`${word.text}` is read when the script runs: write its value in its place"
                        self.scope.set(word.text, Argument(f"${word.text}", Unknown(reason, word.text)))
            case "set":
                self._set(words[1:])
            case "shift":
                self.scope.shift(words[1].text if len(words) > 1 else "1")
            case "." | "source":
                self.scope.sourced = words[1].text if len(words) > 1 else ""
            case "eval":
                self._evaluate(" ".join(word.text for word in words[1:]), command.line)
            case "alias":
                self._alias(words[1:], command.line)
            case _:
                return None
        return _Status.DONE

    def _declare(self, name: str, words: list[Argument], command: Simple) -> None:
        is_global = any(word.text.startswith("-") and "g" in word.text for word in words)
        is_local = name in _LOCAL and not is_global
        for word in command.words[1:]:
            if word and isinstance(word[0], Array):
                if is_local:
                    self.scope.make_local(word[0].name)
                self._assign_array(word[0])
        for argument in words:
            variable, equals, value = argument.text.partition("=")
            if is_local:
                self.scope.make_local(variable)
            if equals and variable.isidentifier() and not isinstance(self.scope.get(variable), tuple):
                self.scope.set(variable, Argument(value, argument.unknown))
            if name == "export" and variable.isidentifier():
                self.scope.exported[variable] = None

    def _set(self, words: list[Argument]) -> None:
        texts = [word.text for word in words]
        if texts[:1] in (["-a"], ["-o"]) and texts[-1] in ("-a", "allexport"):
            self.scope.exports_all = True
        elif "--" in texts:
            self.scope.positional = tuple(words[texts.index("--") + 1 :])

    def _evaluate(self, text: str, line: int) -> None:
        self._deeper()
        self._budget.spend(len(text))
        try:
            self._script(parse(text, self._budget, line))
        except ShellSyntaxError:
            pass
        finally:
            self._depth -= 1

    def _alias(self, words: list[Argument], line: int) -> None:
        for word in words:
            name, equals, text = word.text.partition("=")
            if equals:
                try:
                    self._functions[name] = Group(parse(text, self._budget, line))
                except ShellSyntaxError:
                    continue

    def _tested(self, words: list[Argument]) -> _Status:
        result = decided(words, self.scope)
        return _Status.OPEN if result is None else (_Status.TRUE if result else _Status.FALSE)
