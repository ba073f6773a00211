"""The `tunnels` command: finds the verb, which lives in the module of its name and is imported only when used.

Exit codes (DESIGN section 6): 0 done, 1 not so, 2 wrong use or invalid file, 3 nothing runs.
"""

from __future__ import annotations

import importlib

import click

from reconciler import __version__

# The verbs, in the order of their help, with the line that stands there: listing them imports none of them.
VERBS = {
    "run": "Converge on the file, and keep converging",
    "check": "Validate files, and say what to mend",
    "schema": "Print the JSON Schema of the file",
    "demo": "Watch tunnels converge against an embedded server",
}


class _Verbs(click.Group):
    """Imports `reconciler.cli.<verb>` when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"reconciler.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "TUNNELS"})
@click.version_option(__version__, message="tunnel-reconciler %(version)s")
def main() -> None:
    r"""SSH tunnels as a file: edit tunnels.yaml, and it comes true.

    \b
    tunnels demo                    see it work, nothing needed
    tunnels check tunnels.yaml      validate a file
    tunnels run tunnels.yaml        open its tunnels and keep them open
    """
