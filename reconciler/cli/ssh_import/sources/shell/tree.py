"""The syntax tree of shell text (POSIX shell, with the arrays, `[[ ]]` and here-strings of bash)."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Literal:
    text: str
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    """`$NAME` or `${NAME OPERATOR OPERAND}`. `index` is `@`, `*` or a subscript, for arrays."""

    name: str
    quoted: bool
    operator: str = ""
    operand: Word = ()
    index: str = ""


@dataclass(frozen=True, slots=True)
class Substitution:
    """`$(...)` or backticks."""

    script: Script
    quoted: bool


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """`$((...))`."""

    text: str


@dataclass(frozen=True, slots=True)
class Array:
    """`NAME=(WORD...)`, as a word of its own."""

    name: str
    append: bool
    words: tuple[Word, ...]


Part = Literal | Variable | Substitution | Arithmetic | Array
Word = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Assignment:
    name: str
    append: bool
    value: Word


@dataclass(frozen=True, slots=True)
class HereDocument:
    """A here-document. `body` is one quoted literal if the delimiter is quoted: nothing in it is replaced."""

    body: Word
    line: int


@dataclass(slots=True)
class Simple:
    """Assignments, a program and its arguments.

    documents  filled in when the next line is read
    is_kept    the output goes to a file or another program
    """

    line: int
    assignments: list[Assignment] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)
    documents: list[HereDocument] = field(default_factory=list)
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class Test:
    """`[[ ... ]]`."""

    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Negation:
    command: Command


@dataclass(frozen=True, slots=True)
class Group:
    """`{ ...; }` or `( ... )`."""

    body: Script


@dataclass(frozen=True, slots=True)
class If:
    """`branches` are pairs of condition and body."""

    branches: tuple[tuple[Script, Script], ...]
    otherwise: Script


@dataclass(frozen=True, slots=True)
class WhileLoop:
    """`while` or `until`."""

    condition: Script
    body: Script


@dataclass(frozen=True, slots=True)
class ForLoop:
    """`for NAME in WORDS`. `words` is None if there is no list."""

    name: str
    words: tuple[Word, ...] | None
    body: Script


@dataclass(frozen=True, slots=True)
class Case:
    subject: Word
    branches: tuple[tuple[tuple[Word, ...], Script], ...]


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    body: Command


Command = Simple | Test | Negation | Group | If | WhileLoop | ForLoop | Case | Function


@dataclass(frozen=True, slots=True)
class Item:
    """A command, and the operator between it and the command before: `;`, `&&`, `||` or `|`."""

    operator: str
    command: Command


Script = tuple[Item, ...]
