"""Parses shell text to a syntax tree.

It accepts more than a shell does: an operator or a reserved word in a wrong place is skipped, because the text may be
a part of a script. Quotes and parentheses must be closed.
"""

from __future__ import annotations

import re

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
    Literal,
    Negation,
    Script,
    Simple,
    Test,
    WhileLoop,
    Word,
)
from reconciler.cli.ssh_import.sources.shell.words import MAX_DEPTH, ShellSyntaxError, Token, WordReader, plain
from reconciler.cli.ssh_import.sources.values import WorkBudget

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=")
_NAME = re.compile(r"[^/=]+")
_REDIRECTIONS = frozenset({"<", ">", ">>", ">|", "<>", "<&", ">&", "&>", "&>>", "<<<", "<<", "<<-"})
_WRITES = frozenset({">", ">>", ">|", "&>", "&>>"})
_CLOSERS = frozenset({"then", "elif", "else", "fi", "do", "done", "esac", "}"})


def parse(text: str, budget: WorkBudget, line: int = 1) -> Script:
    """Parse a text. Raises ShellSyntaxError if a quote or a parenthesis is not closed."""
    reader = WordReader(text, line, 0, budget, _inside)
    return _inside(reader, "")


def _inside(reader: WordReader, end: str) -> Script:
    """Parse up to `end`: a closing parenthesis, or the end of the text."""
    reader.depth += 1
    if reader.depth > MAX_DEPTH:
        raise ShellSyntaxError("commands are nested too deeply")
    parser = _Parser(reader)
    script = parser.script(frozenset({end}) if end else frozenset())
    if end and parser.token.operator != end:
        raise ShellSyntaxError(f"no closing {end}")
    reader.depth -= 1
    return script


class _Parser:
    """Parses the commands that a reader gives as tokens. `token` is the next token."""

    def __init__(self, reader: WordReader) -> None:
        self.reader = reader
        self.token = reader.next()

    def _advance(self) -> Token:
        token, self.token = self.token, self.reader.next()
        return token

    def script(self, ends: frozenset[str]) -> Script:
        """Parse commands up to a reserved word or operator in `ends`, which stays the next token."""
        items: list[Item] = []
        operator = ";"
        while self.token.word is not None or self.token.operator:
            if (self.token.plain or self.token.operator) in ends:
                break
            if self.token.operator in ("&&", "||", "|", "|&"):
                operator = self._advance().operator[:2].replace("|&", "|")
            elif self.token.operator == "newline":
                self._advance()
            elif (self.token.operator and self.token.operator not in {*_REDIRECTIONS, "("}) or (
                self.token.plain in _CLOSERS
            ):
                operator = ";"
                self._advance()
            else:
                command = self._command()
                if items and operator == "|":
                    _keep(items[-1].command)
                if command is not None:
                    items.append(Item(operator if items else ";", command))
                operator = ";"
        return tuple(items)

    # --- commands -------------------------------------------------------------------------------------------------

    def _command(self) -> Command | None:
        self.reader.depth += 1
        if self.reader.depth > MAX_DEPTH:
            raise ShellSyntaxError("commands are nested too deeply")
        try:
            return self._one_command()
        finally:
            self.reader.depth -= 1

    def _one_command(self) -> Command | None:  # noqa: C901, PLR0912 - one case for each reserved word
        match self.token.plain or self.token.operator:
            case "if":
                command: Command | None = self._if()
            case "while" | "until":
                self._advance()
                condition = self.script(frozenset({"do"}))
                command = WhileLoop(condition, self._body("do", "done"))
            case "for" | "select":
                command = self._for()
            case "case":
                command = self._case()
            case "{":
                command = Group(self._body("{", "}"))
            case "(":
                command = self._parentheses()
            case "[[":
                command = self._test()
            case "!":
                self._advance()
                negated = self._command()
                return Negation(negated) if negated is not None else None
            case "function":
                self._advance()
                name = self._advance().plain
                if self.token.operator == "(":
                    self._advance()
                    self._advance()
                return self._function(name)
            case "time" | "coproc":
                self._advance()
                if self.token.plain == "-p":
                    self._advance()
                return self._command() if self.token.word is not None else None
            case _:
                return self._simple()
        self._redirections(Simple(self.token.line))
        return command

    def _body(self, start: str, end: str) -> Script:
        if self.token.plain == start:
            self._advance()
        body = self.script(frozenset({end}))
        self._advance()
        return body

    def _if(self) -> Command:
        branches: list[tuple[Script, Script]] = []
        while self.token.plain in ("if", "elif"):
            self._advance()
            condition = self.script(frozenset({"then", "fi"}))
            if self.token.plain == "then":
                self._advance()
            branches.append((condition, self.script(frozenset({"elif", "else", "fi"}))))
        otherwise = self._body("else", "fi") if self.token.plain == "else" else ()
        if not otherwise and self.token.plain == "fi":
            self._advance()
        return If(tuple(branches), otherwise)

    def _for(self) -> Command:
        self._advance()
        name, words = self._advance().plain, None
        self._newlines()
        if self.token.plain == "in":
            self._advance()
            listed: list[Word] = []
            while self.token.word is not None:
                listed.append(self._advance().word or ())
            words = tuple(listed)
        self.script(frozenset({"do", "{"}))
        return ForLoop(name, words, self._body("{", "}") if self.token.plain == "{" else self._body("do", "done"))

    def _newlines(self) -> None:
        while self.token.operator in ("newline", ";"):
            self._advance()

    def _case(self) -> Command:
        self._advance()
        subject = self._advance().word or ()
        self._newlines()
        if self.token.plain == "in":
            self._advance()
        branches: list[tuple[tuple[Word, ...], Script]] = []
        while True:
            self._newlines()
            if self.token.plain == "esac" or (self.token.word is None and not self.token.operator):
                break
            patterns: list[Word] = []
            while self.token.word is not None or self.token.operator in ("|", "("):
                if self.token.word is not None:
                    patterns.append(self.token.word)
                self._advance()
            if self.token.operator == ")":
                self._advance()
            elif self.token.operator:
                raise ShellSyntaxError("no closing ) after a pattern of case")
            branches.append((tuple(patterns), self.script(frozenset({";;", ";&", ";;&", "esac"}))))
            if self.token.operator:
                self._advance()
        self._advance()
        return Case(subject, tuple(branches))

    def _parentheses(self) -> Command:
        if self.reader.text[self.reader.at : self.reader.at + 1] == "(":
            self.reader.skip_past("))")
            self._advance()
            return Group(())
        self._advance()
        body = self.script(frozenset({")"}))
        if self.token.operator != ")":
            raise ShellSyntaxError("no closing )")
        self._advance()
        return Group(body)

    def _test(self) -> Command:
        self._advance()
        words: list[Word] = []
        while self.token.plain != "]]" and (self.token.word is not None or self.token.operator):
            words.append(self.token.word or (Literal(self.token.operator),))
            self._advance()
        self._advance()
        return Test(tuple(words))

    def _function(self, name: str) -> Command | None:
        self._newlines()
        body = self._command()
        return Function(name, body) if body is not None else None

    # --- simple commands ------------------------------------------------------------------------------------------

    def _simple(self) -> Command | None:
        command = Simple(self.token.line)
        while True:
            self._redirections(command)
            if self.token.word is None:
                break
            word = self._advance().word or ()
            if self.token.operator == "(" and not command.words and _NAME.fullmatch(plain(word)):
                return self._definition(plain(word))
            assignment = _assignment(word) if not command.words else None
            if assignment is not None:
                command.assignments.append(assignment)
            else:
                command.words.append(word)
        if self.token.operator == "(":
            raise ShellSyntaxError("an opening parenthesis after a word")
        return command

    def _definition(self, name: str) -> Command | None:
        self._advance()
        if self.token.operator != ")":
            raise ShellSyntaxError("an opening parenthesis after a word")
        self._advance()
        return self._function(name)

    def _redirections(self, command: Simple) -> None:
        while True:
            if self.token.plain.isdecimal() and self.reader.is_redirection():
                self._advance()
            operator = self.token.operator
            if operator not in _REDIRECTIONS:
                return
            self._advance()
            if operator in ("<", ">") and self.token.operator == "(":
                self._parentheses()
            elif self.token.word is not None:
                if operator in ("<<", "<<-"):
                    self.reader.expect_document(self.token.word, operator == "<<-", command.documents)
                elif operator in _WRITES and self.token.plain != "/dev/null":
                    command.is_kept = True
                self._advance()


def _keep(command: Command) -> None:
    """Note that the output of a command goes to another one."""
    match command:
        case Simple():
            command.is_kept = True
        case Group(body):
            for item in body:
                _keep(item.command)
        case _:
            pass


def _assignment(word: Word) -> Assignment | None:
    """Return the assignment in a word before the program, None if the word is no assignment."""
    if word and isinstance(word[0], Array):
        return Assignment(word[0].name, word[0].append, word)
    if not word or not isinstance(word[0], Literal) or word[0].quoted:
        return None
    found = _ASSIGNMENT.match(word[0].text)
    if found is None:
        return None
    return Assignment(found[1], bool(found[2]), (Literal(word[0].text[found.end() :]), *word[1:]))
