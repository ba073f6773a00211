"""The `tunnels` command: finds the verb, which lives in the module of its name and is imported only when used.

Exit codes (DESIGN section 6): 0 done, 1 not so, 2 wrong use or invalid file, 3 nothing runs; 130 for Ctrl-C. What ends
every command alike is here: Ctrl-C, and an output that nothing can be written to.
"""

from __future__ import annotations

import sys

_INTERRUPTED = 130  # 128 and the number of SIGINT, as shells count
_TERMINATED = 143

try:
    import os
    import signal

    if os.getpid() == 1:  # the kernel keeps from the first process of a container what it has no handler for
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))

    import errno
    import importlib
    import io
    import keyword
    from typing import Any

    import click
    from click.shell_completion import CompletionItem

    from reconciler import __version__
    from reconciler.core.printable import printable
except KeyboardInterrupt:  # these take most of the time in which nothing has begun yet
    sys.exit(_INTERRUPTED)

# The verbs, in the order of their help, with the line that stands there: listing them imports none of them.
VERBS = {
    "run": "Converge on the file, and keep converging",
    "check": "Validate files, and say what to mend",
    "plan": "Show what would be done with a file, without doing it",
    "status": "What is up, what is not, and why",
    "diagnose": "Try a tunnel hop by hop, and say what to do",
    "wait": "Wait until tunnels are up",
    "restart": "Give tunnels new SSH connections",
    "pause": "Turn tunnels off without editing the file",
    "resume": "Turn paused tunnels on again",
    "reload": "Have the running process read its files again",
    "connections": "The live clients",
    "port": "Print the port that a tunnel listens on",
    "events": "What changed, when, and why",
    "trust": "Fetch host keys, to compare and to paste",
    "import": "Make a tunnels.yaml of ssh command lines or ssh_config",
    "schema": "Print the JSON Schema of the file",
    "demo": "Watch tunnels converge against an embedded server",
    "completion": "Print what makes a shell complete the commands",
}


# What writing says where the disk is full or gone, or the output closed. (A reader who has left is click's to handle.)
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


class _Verbs(click.Group):
    """Imports `reconciler.cli.<verb>` when it is called."""

    def main(self, *args: Any, **extra: Any) -> Any:
        if sys.__stdout__ is None:
            sys.stdout = _closed()
        try:
            return super().main(*args, **extra)
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            # What is still in its buffer would be written, and fail, once more at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            click.echo(f"error: cannot write: {error.strerror}", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nerror: interrupted", err=True)  # the terminal's ^C stands on the line before
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
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        if cmd_name == "run":  # it reloads on SIGHUP; one that comes before it can must not end it
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name  # import
        command: click.Command = _imported(f"reconciler.cli.{name}").command
        return _as_written(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        near = [verb for verb in VERBS if verb[:2] == args[0][:2]]
        if args[0] not in VERBS and near and not ctx.resilient_parsing:
            ctx.fail(f"there is no command {args[0]}; did you mean {' or '.join(near)}?")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Without importing them all, as click would for their first lines."""
        verbs = [CompletionItem(verb, help=said) for verb, said in VERBS.items() if verb.startswith(incomplete)]
        return verbs if not incomplete.startswith("-") else super(click.Group, self).shell_complete(ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


def _make_printable(error: click.ClickException) -> None:
    """Escape what the message quotes of an argument. click shows it as it is."""
    error.message = "\n".join(map(printable, error.message.split("\n")))  # type: ignore[misc]  # final, says click


def _imported(name: str) -> Any:
    """The module, also where nothing can be written to.

    asyncssh looks for an optional library when it is imported. Where there is a C compiler, Python's way to find one
    makes a temporary file, and raises if there is no directory for it: then it is to find none.
    """
    try:
        return importlib.import_module(name)
    except FileNotFoundError:
        import ctypes.util  # noqa: PLC0415 - seldom needed, and the light commands must start quickly

        find_library = ctypes.util.find_library
        vars(ctypes.util)["find_library"] = lambda _: None
        try:
            return importlib.import_module(name)
        finally:
            vars(ctypes.util)["find_library"] = find_library


def _closed() -> io.TextIOWrapper:
    """In place of a stdout that is closed: writing to it fails, and no socket gets its number."""
    return io.TextIOWrapper(io.FileIO(os.open(os.devnull, os.O_RDONLY), "w"))


def _as_written(command: click.Command) -> click.Command:
    r"""A raw docstring has `\b` as two characters; click wants the one that keeps the lines below it as they are."""
    command.help = (command.help or "").replace("\\b\n", "\b\n")
    return command


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="tunnel-reconciler %(version)s")
def main() -> None:
    r"""SSH tunnels as a file: edit tunnels.yaml, and it comes true.

    \b
    tunnels demo                    see it work, nothing needed
    tunnels check tunnels.yaml      validate a file
    tunnels plan tunnels.yaml       see what it would do
    tunnels run tunnels.yaml        open its tunnels and keep them open
    tunnels status                  what is up, what is not, and why
    tunnels diagnose prod/postgres  find out where one is stuck

    `tunnels COMMAND --help` has examples. `tunnels completion bash` completes commands and ids.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that the terminal does not have must not end the command
            stream.reconfigure(errors="backslashreplace")


_as_written(main)
