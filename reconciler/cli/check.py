"""`tunnels check`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import click

from reconciler.cli import options
from reconciler.cli.files import files
from reconciler.cli.logins import KeyInspector, LoggedIn, log_in_to_all
from reconciler.cli.terminal.table import clean, complain, count, is_unicode
from reconciler.config.effective_json import to_json
from reconciler.config.load import Config, Loaded, load_files
from reconciler.config.syntax.config_files import default_paths
from reconciler.system.redaction import redact_json

_SECONDS = 300.0  # of processor time: to open an encrypted key takes up to a second of it


@click.command("check")
@files
@click.option("--each", is_flag=True, help="Each file by itself, not merged with the others.")
@click.option("--connect", is_flag=True, help="Also log in to every target, and open nothing.")
@options.output("the result with all defaults filled in, and its revision.")
def command(config: Config, each: bool, connect: bool, output: str) -> None:
    r"""Validate FILE..., and say what to mend: every mistake at once, each with its line.

    \b
    tunnels check
    tunnels check --strict --each teams/*.yaml
    tunnels check --connect tunnels.yaml

    Exits 0 if the files are valid (and, with --connect, every target lets us in), 2 if not. Warnings do not count,
    unless --strict is given.
    """
    looking = replace(config.options, inspector=KeyInspector(config.environ), seconds=_SECONDS)
    given = config.paths or default_paths(config.environ)
    groups = [(path,) for path in given] if each and given else [given]
    well = True
    found = []
    for paths in groups:
        result = load_files(paths, environ=config.environ, options=looking)
        errors, warnings = list(map(str, result.errors)), list(map(str, result.warnings))
        logins = log_in_to_all(result, config.environ) if connect and not errors else []
        well &= not errors and all(login.ok for login in logins)
        if output == "json":
            found.append(redact_json(_json(result, errors, warnings, logins if connect else None)))  # while it is there
        else:
            _tell(result, errors, warnings, logins)
    if output == "json":
        click.echo(_json_text(found if each else found[0]))
    sys.exit(0 if well else 2)


def _json_text(value: object) -> str:
    """JSON that `check` reads again as YAML.

    YAML has no surrogate pairs, which is how JSON escapes characters beyond U+FFFF. So only what cannot be seen is
    escaped, where the output takes the rest.
    """
    if not is_unicode():
        return json.dumps(value, indent=2)
    lines = json.dumps(value, indent=2, ensure_ascii=False).split("\n")
    return "\n".join(line if clean(line) == line else "".join(map(_json_escaped, line)) for line in lines)


def _json_escaped(character: str) -> str:
    return character if clean(character) == character else json.dumps(character)[1:-1]


def _tell(result: Loaded, errors: list[str], warnings: list[str], logins: list[LoggedIn]) -> None:
    for problem in errors:
        complain("error", problem)
    for problem in warnings:
        complain("warning", problem)
    if not errors:
        targets, tunnels = len(result.desired.targets), len(result.desired.tunnels)
        names = ", ".join(file.path for file in result.files)
        click.echo(f"{clean(names)}: valid, {count(targets, 'target')} and {count(tunnels, 'tunnel')}")
    for login in logins:
        said = "" if login.ok else f"error: ({login.reason}) "
        click.echo(f"{said}target {clean(f'{login.target}: {login.message}')}", err=not login.ok)


def _json(result: Loaded, errors: list[str], warnings: list[str], logins: list[LoggedIn] | None) -> dict[str, object]:
    made: dict[str, object] = {
        "valid": not errors,
        "revision": result.rejected or result.revision,
        "errors": errors,
        "warnings": warnings,
        "config": to_json(result.desired),
    }
    if logins is not None:
        made["logins"] = [
            {"target": one.target, "ok": one.ok, "reason": one.reason or None, "message": one.message} for one in logins
        ]
    return made
