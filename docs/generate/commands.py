"""The commands as click knows them, and their page."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass

import click

from generate.markdown import code, marked, page, sentences, table
from reconciler.cli.main import COMMANDS, EXIT_CODES, main

_INTRODUCTION = """\
`tunnels COMMAND --help` (or `-h`) shows the same text. `tunnels` is also installed as `tunnel-reconciler`, and
`python -m reconciler` runs it too. An option with a variable can be set by that variable; the option on the command
line wins.
"""


@dataclass(frozen=True, slots=True)
class Option:
    """An option: its forms (`--output [text|json]`), and its meaning with its default and variable."""

    forms: tuple[str, ...]
    meaning: str
    default: str
    variable: str


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a help text: a paragraph, or an example. The lines of an example stay as they are."""

    text: str
    is_example: bool


@dataclass(frozen=True, slots=True)
class Command:
    """A command. `exits`: the sentences of its help that say when it exits with which code."""

    name: str
    summary: str
    usage: str
    blocks: tuple[Block, ...]
    exits: str
    options: tuple[Option, ...]


def every_command() -> Iterator[Command]:
    """Yield the commands in the order of `tunnels --help`."""
    context = _context()
    for name, summary in COMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None
        yield _command(name, summary, command, click.Context(command, context, info_name=name))


def group_options() -> tuple[Option, ...]:
    """Return the options of `tunnels` itself."""
    return tuple(_options(_context()))


def _context() -> click.Context:
    return click.Context(main, info_name="tunnels", **main.context_settings)


def introduction() -> tuple[Block, ...]:
    """Return the help text of `tunnels` itself."""
    return tuple(_blocks(main.help or ""))


def commands() -> str:
    """Return the page as Markdown."""
    found = list(every_command())
    overview = table(("command", "does"), ((f"[{one.name}](#{one.name})", f"{one.summary}.") for one in found))
    exits = table(("code", "meaning"), ((str(number), meaning) for number, meaning in EXIT_CODES.items()))
    return page(
        "Commands", _INTRODUCTION, overview, f"## Exit codes\n\nOf all commands:\n\n{exits}", *map(_section, found)
    )


def _section(command: Command) -> str:
    parts = [f"## {command.name}", f"```text\n{command.usage}\n```"]
    parts += [f"```sh\n{block.text}\n```" if block.is_example else marked(block.text) for block in command.blocks]
    parts.append(f"**Exit codes.** {marked(command.exits)}")
    if command.options:
        rows = ((code(one.forms), f"{marked(one.meaning)}{_more(one)}") for one in command.options)
        parts.append(table(("option", "meaning"), rows).rstrip())
    return "\n\n".join(parts) + "\n"


def _more(option: Option) -> str:
    default = f" Default: {marked(option.default)}." if option.default else ""
    return f"{default} Variable: `{option.variable}`." if option.variable else default


def _command(name: str, summary: str, command: click.Command, context: click.Context) -> Command:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    blocks, exits = list[Block](), list[str]()
    for block in _blocks(command.help or ""):
        if block.is_example:
            blocks.append(block)
            continue
        said = sentences(block.text)
        exits += (one for one in said if one.startswith("Exits "))
        if others := [one for one in said if not one.startswith("Exits ")]:
            blocks.append(Block(" ".join(others), is_example=False))
    return Command(name, summary, usage, tuple(blocks), " ".join(exits), tuple(_options(context)))


def _blocks(text: str) -> Iterator[Block]:
    """Split a help text as click does: a paragraph after a backspace keeps its lines."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if paragraph.startswith("\b\n"):
            yield Block(paragraph.removeprefix("\b\n"), is_example=True)
        else:
            yield Block(" ".join(paragraph.split()), is_example=False)


def _options(context: click.Context) -> Iterator[Option]:
    for parameter in context.command.get_params(context):
        is_help = context.parent is not None and "--help" in parameter.opts
        if not isinstance(parameter, click.Option) or parameter.hidden or is_help:
            continue
        meaning, _, default = (parameter.help or "").partition("  [default: ")
        default = default.removesuffix("]")
        if parameter.show_default and not default:
            default = f"`{parameter.default}`"
        takes = "" if parameter.is_flag else f" {parameter.make_metavar(context)}"
        yield Option(tuple(f"{form}{takes}" for form in parameter.opts), meaning, default, str(parameter.envvar or ""))
