"""`tunnels check`."""

from __future__ import annotations

import json
import os
import sys

import click

from reconciler.cli.files import files
from reconciler.config.effective import to_json
from reconciler.config.load import Config, Loaded


@click.command("check")
@files
@click.option("--each", is_flag=True, help="Each file by itself, not merged with the others.")
@click.option(
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: the result with all defaults filled in, and its revision.",
)
def command(config: Config, each: bool, output: str) -> None:
    """Validate FILE..., and say what to mend: every mistake at once, each with its line.

    Exits 0 if the files are valid, 2 if not. Warnings do not count, unless --strict is given.
    """
    configs = (
        [Config([path], environ=os.environ, options=config.options) for path in config.paths] if each else [config]
    )
    results = [one.reload() for one in configs]
    if output == "json":
        found = [_json(result) for result in results]
        click.echo(json.dumps(found if each else found[0], indent=2))
    else:
        for result in results:
            _tell(result)
    sys.exit(0 if all(result.valid for result in results) else 2)


def _tell(result: Loaded) -> None:
    for problem in result.errors:
        click.echo(f"error: {problem}", err=True)
    for problem in result.warnings:
        click.echo(f"warning: {problem}", err=True)
    if result.valid:
        targets, tunnels = len(result.desired.targets), len(result.desired.tunnels)
        names = ", ".join(file.path for file in result.files)
        click.echo(f"{names}: valid, {_count(targets, 'target')} and {_count(tunnels, 'tunnel')}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _json(result: Loaded) -> dict[str, object]:
    return {
        "valid": result.valid,
        "revision": result.revision,
        "errors": [str(problem) for problem in result.errors],
        "warnings": [str(problem) for problem in result.warnings],
        "config": to_json(result.desired),
    }
