"""`tunnels check`: validate files, and with --connect try the logins."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import click

from reconciler.cli import shared_options
from reconciler.cli.files import judged_files
from reconciler.cli.logins import KeyInspector, LoginResult, log_in_to_all
from reconciler.cli.terminal.table import clean, count, is_unicode, print_message
from reconciler.config.effective_json import to_json
from reconciler.config.load import Config, Loaded, load_files
from reconciler.config.syntax.config_files import default_paths
from reconciler.system.redaction import redact_json

_SECONDS = 300.0  # of processor time: an encrypted key takes up to one second to open


@click.command("check")
@judged_files
@click.option(
    "--each", is_flag=True, help="Check each file by itself, those of directories too, instead of merging them."
)
@click.option("--connect", is_flag=True, help="Also log in to every target, without opening tunnels.")
@shared_options.output("the configuration with all defaults filled in, and its revision.")
def command(config: Config, each: bool, connect: bool, output: str) -> None:
    r"""Validate FILE... and report every mistake with its line.

    \b
    tunnels check
    tunnels check --strict --each teams/*.yaml
    tunnels check --connect tunnels.yaml

    Exits 0 if the files are valid and, with --connect, every login succeeds; else 2. Warnings count only with
    --strict.
    """
    load_options = replace(config.options, inspector=KeyInspector(config.environ), seconds=_SECONDS)
    all_paths = config.paths or default_paths(config.environ)
    groups = [(name,) for path in all_paths for name in _each(config, path)] if each and all_paths else [all_paths]
    is_ok = True
    documents = []
    printed: set[str] = set()
    for paths in groups:
        result = load_files(paths, environ=config.environ, options=load_options, policy=config.policy)
        errors, warnings = list(map(str, result.errors)), list(map(str, result.warnings))
        logins = log_in_to_all(result, config.environ) if connect and not errors else []
        is_ok &= not errors and all(login.ok for login in logins)
        if output == "json":
            # Redact now: the next load replaces the values that are known to be secret.
            documents.append(redact_json(_json(result, errors, warnings, logins if connect else None)))
        else:
            # Each file has the errors of the policy file: print them once.
            _print_text(result, [one for one in errors if one not in printed], warnings, logins)
            printed.update(errors)
    if output == "json":
        click.echo(_json_text(documents if each else documents[0]))
    sys.exit(0 if is_ok else 2)


def _each(config: Config, path: str) -> tuple[str, ...]:
    """Return the files of a path argument. Loading a path that has none reports why."""
    return config.listing(path).names or (path,)


def _json_text(value: object) -> str:
    """Return JSON that `check` can read as YAML.

    JSON escapes characters beyond U+FFFF as surrogate pairs, which YAML does not have. So only invisible characters are
    escaped, if the output is Unicode.
    """
    if not is_unicode():
        return json.dumps(value, indent=2)
    lines = json.dumps(value, indent=2, ensure_ascii=False).split("\n")
    return "\n".join(line if clean(line) == line else "".join(map(_json_escaped, line)) for line in lines)


def _json_escaped(character: str) -> str:
    return character if clean(character) == character else json.dumps(character)[1:-1]


def _print_text(result: Loaded, errors: list[str], warnings: list[str], logins: list[LoginResult]) -> None:
    for problem in errors:
        print_message("error", problem)
    for problem in warnings:
        print_message("warning", problem)
    if result.valid:
        targets, tunnels = len(result.desired.targets), len(result.desired.tunnels)
        names = ", ".join(file.path for file in result.files)
        click.echo(f"{clean(names)}: valid, {count(targets, 'target')} and {count(tunnels, 'tunnel')}")
    for login in logins:
        prefix, reason = ("", "") if login.ok else ("error: ", f" ({login.reason})")
        click.echo(f"{prefix}target {clean(f'{login.target}{reason}: {login.message}')}", err=not login.ok)


def _json(
    result: Loaded, errors: list[str], warnings: list[str], logins: list[LoginResult] | None
) -> dict[str, object]:
    document: dict[str, object] = {
        "valid": not errors,
        "revision": result.rejected or result.revision,
        "errors": errors,
        "warnings": warnings,
        "config": to_json(result.desired),
    }
    if logins is not None:
        document["logins"] = [
            {"target": login.target, "ok": login.ok, "reason": login.reason or None, "message": login.message}
            for login in logins
        ]
    return document
