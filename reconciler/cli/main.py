"""The `tunnels` command group. Each command is a module of its name, imported only when it is used.

This module handles what can end any command: Ctrl-C, and an output that cannot be written.
"""

from __future__ import annotations

import sys

_INTERRUPTED = 130  # 128 + SIGINT, as in shells
_TERMINATED = 143
# What the exit codes of all commands mean. The help of a command says when it exits with which (docs/contract.md).
EXIT_CODES = {
    0: "success",
    1: "failure",
    2: "wrong usage, or an invalid file",
    3: "no running process (`status` only)",
    _INTERRUPTED: "ended by Ctrl-C",
    _TERMINATED: "ended by SIGTERM before it could be handled",
}

try:
    import os
    import signal

    if os.getpid() == 1:  # the kernel drops signals without a handler for the first process of a container
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))

    import errno
    import importlib
    import io
    import keyword
    from typing import Any

    import click
    from click.shell_completion import CompletionItem

    from reconciler import __version__
    from reconciler.core.text.printable import printable
except KeyboardInterrupt:  # the imports take most of the start-up time
    sys.exit(_INTERRUPTED)

# The commands in the order of the help text, each with its help line. Listing them imports none of them.
COMMANDS = {
    "run": "Open the tunnels of the file and keep them matching it",
    "init": "Write a first file to edit",
    "check": "Validate files and report every mistake",
    "plan": "Show what a file would change, without changing it",
    "status": "Show which tunnels are up, which are not, and why",
    "diagnose": "Test a tunnel hop by hop and say what to fix",
    "wait": "Wait until tunnels are up",
    "restart": "Give tunnels new SSH connections",
    "pause": "Turn tunnels off without editing the file",
    "resume": "Turn paused tunnels on",
    "reload": "Make the running process read its files again",
    "connections": "List the live client connections",
    "port": "Print the port of a tunnel",
    "events": "Show what changed, when, and why",
    "trust": "Fetch host keys to compare and pin",
    "import": "Translate ssh command lines or ssh_config to a tunnels.yaml",
    "explain": "Explain a field, a reason or the code of a message",
    "schema": "Print the JSON Schema of tunnels.yaml",
    "demo": "Try tunnels against an embedded SSH server",
    "completion": "Print a shell completion script",
}


# Errors of a write to a full or failed disk, or to a closed output. click handles a closed pipe (EPIPE).
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


class _CommandGroup(click.Group):
    """Imports `reconciler.cli.<command>` when the command is called."""

    def main(self, *args: Any, **extra: Any) -> Any:
        if sys.__stdout__ is None:
            sys.stdout = _unwritable_stdout()
        try:
            return super().main(*args, **extra)
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            # Python flushes the buffer again at exit, which would fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            click.echo(f"error: cannot write: {error.strerror}", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nerror: interrupted", err=True)  # the newline ends the terminal's "^C"
            ctx.exit(_INTERRUPTED)
        except click.ClickException as error:
            _make_printable(error)
            raise

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.ClickException as error:
            _make_printable(error)
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name == "run":  # a SIGHUP before the handler is installed must not end the process
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name  # import
        command: click.Command = _import(f"reconciler.cli.{name}").command
        return _keep_line_breaks(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        similar = [name for name in COMMANDS if name[:2] == args[0][:2]]
        if args[0] not in COMMANDS and similar and not ctx.resilient_parsing:
            ctx.fail(f"unknown command '{args[0]}': did you mean {' or '.join(similar)}?")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names without importing the modules, which click would do for their help lines."""
        names = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return names if not incomplete.startswith("-") else super(click.Group, self).shell_complete(ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _make_printable(error: click.ClickException) -> None:
    """Escape control characters of arguments that the message quotes, which click does not do."""
    error.message = "\n".join(map(printable, error.message.split("\n")))  # type: ignore[misc]  # final, says click


def _import(name: str) -> Any:
    """Import a module, also on a system where no file can be written.

    asyncssh looks for an optional library when it is imported. Where there is a C compiler, `find_library` makes a
    temporary file and raises FileNotFoundError if there is no directory for it. The import is then repeated with a
    `find_library` that finds nothing.
    """
    try:
        return importlib.import_module(name)
    except FileNotFoundError:
        import ctypes.util  # noqa: PLC0415 - seldom needed, and the commands must start quickly

        find_library = ctypes.util.find_library
        vars(ctypes.util)["find_library"] = lambda _: None
        try:
            return importlib.import_module(name)
        finally:
            vars(ctypes.util)["find_library"] = find_library


def _unwritable_stdout() -> io.TextIOWrapper:
    """Return a stand-in for a closed stdout: a write to it fails, and no socket gets descriptor 1."""
    return io.TextIOWrapper(io.FileIO(os.open(os.devnull, os.O_RDONLY), "w"))


def _keep_line_breaks(command: click.Command) -> click.Command:
    r"""Replace the two characters `\b` of a raw docstring by a backspace: click then keeps the line breaks."""
    command.help = (command.help or "").replace("\\b\n", "\b\n")
    return command


@click.group(cls=_CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="tunnel-reconciler %(version)s")
def main() -> None:
    r"""SSH tunnels as a file: the running process keeps them matching tunnels.yaml.

    \b
    tunnels demo                    try it on this machine
    tunnels check tunnels.yaml      validate a file
    tunnels plan tunnels.yaml       see what a file would change
    tunnels run tunnels.yaml        open its tunnels and keep them open
    tunnels status                  see which tunnels are up, and why others are not
    tunnels diagnose prod/postgres  find out why a tunnel fails

    `tunnels COMMAND --help` has examples. `tunnels completion bash` completes commands and ids.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character outside the encoding must not end the command
            stream.reconfigure(errors="backslashreplace")


_keep_line_breaks(main)
