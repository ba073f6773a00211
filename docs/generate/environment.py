"""The page of the environment variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from generate.commands import Option, every_command
from generate.markdown import code, marked, page, table
from reconciler.cli.environment import READ, SET_FOR_PROGRAM

_INTRODUCTION = """\
A variable that is empty counts as unset. Files can also use any variable, as `${NAME}` or `{env: NAME}`
([tunnels.yaml](../reference.md)).
"""


def option_variables() -> Iterator[tuple[str, Option, list[str]]]:
    """Yield each variable of an option, the option, and the commands that have it."""
    found: dict[str, tuple[Option, list[str]]] = {}
    for command in every_command():
        for option in command.options:
            if option.variable:
                found.setdefault(option.variable, (option, []))[1].append(command.name)
    for variable, (option, commands) in sorted(found.items()):
        yield variable, option, commands


def environment() -> str:
    """Return the page as Markdown."""
    options = table(
        ("variable", "option", "commands", "meaning"),
        (
            (
                f"`{variable}`",
                code(option.forms),
                ", ".join(f"[{one}](commands.md#{one})" for one in commands),
                marked(option.meaning),
            )
            for variable, option, commands in option_variables()
        ),
    )
    return page(
        "Environment variables",
        _INTRODUCTION,
        f"## Options\n\n{options}",
        f"## Other variables\n\n{_meanings(READ)}",
        f"## Variables for the program of `tunnels run -- CMD`\n\n{_meanings(SET_FOR_PROGRAM)}",
    )


def _meanings(variables: Mapping[str, str]) -> str:
    return table(("variable", "meaning"), ((f"`{name}`", marked(meaning)) for name, meaning in variables.items()))
