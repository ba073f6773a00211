"""`tunnels plan`: show what a file would change."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from reconciler.cli import shared_options
from reconciler.cli.client import CommandError, Control, NotRunningError
from reconciler.cli.files import judged_files
from reconciler.cli.responses import PlannedStepJson
from reconciler.cli.terminal.table import clean, coloured, count, print_message, width
from reconciler.config.load import Config, Loaded
from reconciler.config.policy_file import PolicyFile
from reconciler.config.problem import PolicyCode, Problem
from reconciler.config.syntax.config_files import STDIN, Found, default_paths, read_all
from reconciler.core.actions import ASKED_FOR
from reconciler.core.spec import NOTHING, Desired
from reconciler.core.subject import Subject
from reconciler.runtime.plan_report import PlanStep, between
from reconciler.system.redaction import redact_json

_SIGNS = {"dial": "+", "open": "+", "close": "-", "retire": "-", "cut": "-", "drain": "-"}
_COLOURS = {"+": "green", "-": "red", "~": "yellow"}
_HEAD_MAX = 44  # columns; the text is indented below its head only if the head is narrower
_TEXT_MIN = 30
_WIDE = 1_000_000  # columns where there is no terminal: one line for each step
_INVALID = 2
# A step that opens a tunnel shows its two addresses. A change of these fields is not shown again.
_ADDRESS_FIELDS = frozenset({"localHost", "localPort", "localSocket", "remoteHost", "remotePort", "remoteSocket"})


class _InvalidFileError(CommandError):
    exit_code = _INVALID


@dataclass(frozen=True, slots=True)
class _PlanResult:
    """The steps, or the errors. `clients` counts each affected live client once, unlike the sum over the steps."""

    steps: list[PlanStep]
    errors: list[str]
    clients: int = 0


@click.command("plan")
@judged_files
@click.option("--from", "old", metavar="OLD", multiple=True, help="Compare with OLD; - is stdin (may be repeated).")
@click.option("--exit-code", is_flag=True, help="Exit 1 if there is something to do.")
@shared_options.output("the steps: action, subject, why, changed fields, number of live clients affected.")
@shared_options.control
def command(config: Config, old: tuple[str, ...], exit_code: bool, output: str, control: Control) -> None:
    r"""Show what the running process would change for FILE..., without changing it.

    Without a running process, the plan is what a fresh start would do. With --from, it is what an edit from OLD to FILE
    would do, and no process is needed.

    \b
    tunnels plan tunnels.yaml
    git show main:tunnels.yaml | tunnels plan tunnels.yaml --from -
    tunnels plan --exit-code tunnels.yaml || echo "something would change"

    Exits 0, or 2 if a file is invalid; with --exit-code, 1 if there is something to do.
    """
    new, before = _found(config, config.paths or default_paths(config.environ), old)
    loaded = _load(config, new, config.policy)
    result = _from_old(config, loaded, before) if old else _from_running(config, control, new, loaded)
    steps = sorted(result.steps, key=lambda step: (step.subject.name, step.action, step.why))
    if output == "json":
        document = {"actions": [step.to_json() for step in steps], "errors": result.errors, "clients": result.clients}
        click.echo(json.dumps(redact_json(document), indent=2))
    else:
        for error in result.errors:
            print_message("error", error)
        if not result.errors or steps:
            click.echo("\n".join(_lines(steps, loaded.desired, result.clients)))
    sys.exit(_INVALID if result.errors else int(exit_code and bool(steps)))


# --- the steps -------------------------------------------------------------------------------------------------


def _from_old(config: Config, loaded: Loaded, before: Sequence[Found]) -> _PlanResult:
    origin = _load(config, before, None)  # the policy judges the new content only
    errors = [*_errors(loaded), *map(str, origin.errors)]
    return _PlanResult([], errors) if errors else _between(origin.desired, loaded.desired)


def _from_running(config: Config, control: Control, new: Sequence[Found], loaded: Loaded) -> _PlanResult:
    if problems := [str(file.problem) for file in new if file.problem is not None]:
        return _PlanResult([], problems)
    if config.policy and (refused := [str(error) for error in loaded.errors if _is_of_policy(error, config.policy)]):
        return _PlanResult([], refused)  # the running process may have another policy
    files = [{"name": file.name, "directory": file.directory, "text": _text(file)} for file in new]
    try:
        answer = control.post("/api/v1/plan", {"files": files, "strict": config.options.strict}, within=60.0)
    except NotRunningError:
        where = f" at {control.paths[0]}" if control.is_named else ""
        click.echo(f"no running process found{where}: showing what a fresh start would do", err=True)
        errors = _errors(loaded)
        return _PlanResult([], errors) if errors else _between(NOTHING, loaded.desired)
    except CommandError as error:
        raise _InvalidFileError(error.message) from None
    for warning in answer["warnings"]:
        print_message("warning", warning)
    planned: list[PlannedStepJson] = answer["actions"]
    steps = [
        PlanStep(
            one["action"],
            Subject.parse(one["subject"]),
            one["why"],
            one["clients"],
            tuple(one.get("changes", ())),  # a process of an older version sends none
        )
        for one in planned
    ]
    # A process of an older version sends no total.
    clients = answer.get("clients", sum(step.clients for step in steps))
    return _PlanResult(steps, answer["errors"], clients)


def _is_of_policy(error: Problem, policy: PolicyFile) -> bool:
    return isinstance(error.code, PolicyCode) or error.file == policy.path


def _between(old: Desired, new: Desired) -> _PlanResult:
    plan = between(old, new)
    return _PlanResult(list(plan.steps), [], plan.clients)


def _text(found: Found) -> str:
    try:
        return found.data.decode()
    except UnicodeDecodeError:
        raise _InvalidFileError(f"{found.name} is not UTF-8: save the file as UTF-8") from None


def _errors(loaded: Loaded) -> list[str]:
    """Print the warnings and return the errors."""
    for warning in loaded.warnings:
        print_message("warning", warning)
    return [str(error) for error in loaded.errors]


# --- the files --------------------------------------------------------------------------------------------------


def _found(config: Config, new: Sequence[str], old: Sequence[str]) -> tuple[list[Found], list[Found]]:
    """Return the contents of the new and the old files. A pipe gets the directory of a file that is compared with it.

    Otherwise the relative paths in `git show main:etc/tunnels.yaml` would appear to have changed.
    """
    if not new:
        raise _InvalidFileError("no file given and no default file found: name a FILE")
    if [*new, *old].count(STDIN) > 1:
        raise click.UsageError("only one file can be stdin")
    sides = [_read(config, new), _read(config, old)]
    directories = [[file.directory for file in side if not _is_piped(file.name)] for side in sides]
    directory = next((names[0] for names in directories if names), str(Path.cwd()))
    first, second = (
        [Found(file.name, directory, file.data, file.problem) if _is_piped(file.name) else file for file in side]
        for side in sides
    )
    return first, second


def _read(config: Config, paths: Iterable[str]) -> list[Found]:
    found = []
    for path in paths:
        listed = config.listing(path)
        if listed.problem is not None:
            raise _InvalidFileError(str(listed.problem))
        found += read_all(listed)
    return found


def _is_piped(name: str) -> bool:
    return name == "<stdin>" or (os.path.exists(name) and not os.path.isfile(name))  # noqa: PTH110, PTH113 - Path's raise where a name is too long


def _load(config: Config, found: Sequence[Found], policy: PolicyFile | None) -> Loaded:
    return Config((), environ=config.environ, options=config.options, policy=policy).load(found)


# --- text -------------------------------------------------------------------------------------------------------


def _lines(steps: Sequence[PlanStep], desired: Desired, clients: int) -> list[str]:
    if not steps:
        return ["Nothing to do."]
    rows = Counter(steps)
    actions = [f"{step.action} x{times}" if times > 1 else step.action for step, times in rows.items()]
    widest = max(map(len, actions)), max(len(step.subject.name) for step in rows)
    lines = []
    for step, shown in zip(rows, actions, strict=True):
        sign = _SIGNS.get(step.action, "~")
        cut = " cut" if step.action == "assign" else ""  # an assign affects only the clients that its new rules cut
        touched = f" ({count(step.clients, 'live client')}{cut})" if step.clients else ""
        head = f"{sign} {shown:{widest[0]}} {clean(step.subject.name):{widest[1]}}  "
        lines += _hanging(head, clean(_detail(step, desired)) + touched)
    return [*lines, "", _sum(steps, clients)]


def _hanging(head: str, text: str) -> list[str]:
    """Return the head with the text beside it, wrapped to the terminal; the sign is coloured."""
    indent = " " * (len(head) if len(head) <= _HEAD_MAX else 4)
    columns = max(width() or _WIDE, len(indent) + _TEXT_MIN)
    lines = textwrap.wrap(
        head + text, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [coloured(lines[0][:1], _COLOURS[head[:1]]) + lines[0][1:], *lines[1:]]


def _detail(step: PlanStep, desired: Desired) -> str:
    """Return the addresses for a step that opens something, and the reason for any other step."""
    tunnel, target = desired.tunnels.get(step.subject.name), desired.targets.get(step.subject.name)
    if step.action == "open" and tunnel is not None:
        others = [change for change in step.changes if change.partition(" ")[0] not in _ADDRESS_FIELDS]
        return f"{tunnel.listen} -> {tunnel.route}" + ("; " + ", ".join(others) if others else "")
    if step.action == "dial" and target is not None and step.why == ASKED_FOR:
        return ", ".join(str(host) for host in target.access.hop.hosts)
    return step.why


def _sum(steps: Sequence[PlanStep], clients: int) -> str:
    tunnels = {sign: set[str]() for sign in "+~-"}
    for step in steps:
        if step.subject.tunnel is not None and step.action not in ("drain", "cut"):
            tunnels[_SIGNS.get(step.action, "~")].add(step.subject.tunnel)
    both = tunnels["+"] & tunnels["-"]  # a tunnel that moves to another address counts as changed
    opened, closed, changed = tunnels["+"] - both, tunnels["-"] - both, tunnels["~"] | both
    text = f"{count(len(opened), 'tunnel')} to open, {len(changed)} to change, {len(closed)} to close"
    if dialled := sum(step.action == "dial" for step in steps):
        text += f", {count(dialled, 'connection')} to make"
    return f"{text}; {count(clients, 'live client')} affected." if clients else f"{text}."
