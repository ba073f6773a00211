"""`${NAME}` in any text expands as in a reference implementation that reads character by character."""

from __future__ import annotations

import re
from typing import NamedTuple

from hypothesis import strategies as st

from fuzz.driver import Fuzz
from reconciler.config.options import Options
from reconciler.config.schema.variables import Variables
from reconciler.config.syntax.nodes import Entry, Scalar, Table

ENVIRON = {"A": "alpha", "B_2": "$$ ${A}", "EMPTY": "", "PORT": "8080", "SECRET_X": "x"}
PREFIXES = ("A", "B", "EMPTY")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Expanded(NamedTuple):
    text: str
    wrong: int  # number of errors; a repeated mistake in one value counts once
    unset: tuple[str, ...]  # each name once: first those without a value, then those that may not be read


def reference(text: str, prefixes: tuple[str, ...] | None) -> Expanded:
    """Expand `${VAR}`, `${VAR:-default}` and `$$`. A default contains no variable."""
    made, at = "", 0
    wrong, unset, refused = set[str](), list[str](), list[str]()
    while at < len(text):
        if text.startswith("$$", at):
            made, at = made + "$", at + 2
            continue
        if not text.startswith("${", at):
            made, at = made + text[at], at + 1
            continue
        name = _NAME.match(text, at + 2)
        after = name.end() if name else at
        has_default = name is not None and text.startswith(":-", after)
        end = text.find("}", after) if has_default else after
        if name is None or end < 0 or not text.startswith("}", end):
            made, at = made + "${", at + 2
            wrong.add("no variable")
            continue
        value = ENVIRON.get(name[0])
        if prefixes is not None and not name[0].startswith(prefixes):
            made += f"${{{name[0]}}}"
            wrong.add(f"{name[0]} may not be read")
            refused.append(name[0])
        elif has_default and not value:
            default = text[after + 2 : end]
            made += default.replace("$$", "$")
            if "${" in default.replace("$$", " "):
                wrong.add("a variable in a default")
        elif value is None:
            made += text[at : end + 1]
            unset.append(name[0])
        else:
            made += value
        at = end + 1
    names = (*dict.fromkeys(unset), *dict.fromkeys(refused))
    return Expanded(made, len(wrong), names)


def expanded(text: str, prefixes: tuple[str, ...] | None) -> Expanded:
    table = Table((Entry("key", Scalar(text, text, 1, 6), 1, 1),), 1, 1)
    root, problems = Variables(ENVIRON, Options(allow_env=prefixes)).expand(table, "file")
    node = root.get("key")
    assert isinstance(node, Scalar)
    return Expanded(node.text, len(problems), node.unset)


_TOKENS = """
    $ $$ ${ } { :- : - A B_2 EMPTY PORT SECRET_X NONE _ 9 é
    ${A} ${A:-x} ${NONE} ${NONE:-a} ${EMPTY:-$$} ${EMPTY:-${A}} ${SECRET_X} ${PORT}
"""
_PARTS = st.sampled_from([*_TOKENS.split(), " "])
texts = st.lists(_PARTS, max_size=12).map("".join) | st.text("${}:-A_ \n", max_size=20)


def assert_expands_as_the_reference(asked: tuple[str, tuple[str, ...] | None]) -> None:
    text, prefixes = asked
    if "$" in text:
        assert expanded(text, prefixes) == reference(text, prefixes)


def test_variables_expand_as_the_reference_says(fuzz: Fuzz) -> None:
    asked = st.tuples(texts, st.sampled_from([None, PREFIXES]))
    fuzz.run(asked, assert_expands_as_the_reference, examples=400)
