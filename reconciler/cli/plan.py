"""`tunnels plan`."""

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

from reconciler.cli import options
from reconciler.cli.client import Control, NothingRuns, Trouble
from reconciler.cli.files import files
from reconciler.cli.responses import PlannedStep
from reconciler.cli.terminal.table import clean, complain, count, painted, width
from reconciler.config.load import Config, Loaded
from reconciler.config.syntax.config_files import STDIN, Found, default_paths, listing, read_all
from reconciler.core.spec import NOTHING, Desired
from reconciler.runtime.plan_report import between
from reconciler.system.redaction import redact_json

_SIGNS = {"dial": "+", "open": "+", "close": "-", "retire": "-", "cut": "-", "drain": "-"}
_COLOURS = {"+": "green", "-": "red", "~": "yellow"}
_HEAD_MAX = 44  # a head wider than this does not push its text to the right
_TEXT_MIN = 30
_WIDE = 1_000_000  # no terminal: one line each
_INVALID = 2


class _Invalid(Trouble):
    exit_code = _INVALID


@dataclass(frozen=True, slots=True)
class _Foreseen:
    """`clients`: how many live ones are touched; the steps' own counts tell of one who loses his connection twice."""

    steps: list[PlannedStep]
    errors: list[str]
    clients: int = 0


@click.command("plan")
@files
@click.option("--from", "old", metavar="OLD", multiple=True, help="What to compare with; - is stdin (may be repeated).")
@click.option("--exit-code", is_flag=True, help="Exit 1 if there is something to do.")
@options.output("the steps: action, subject, why, and how many live clients it touches.")
@options.control
def command(config: Config, old: tuple[str, ...], exit_code: bool, output: str, control: Control) -> None:
    r"""What would be done with FILE..., without doing it.

    Asks the running process, which knows its live clients; where none runs, it is all there is to do from nothing.
    With --from it is what an edit from OLD to FILE does, and no process is asked.

    \b
    tunnels plan tunnels.yaml
    git show main:tunnels.yaml | tunnels plan tunnels.yaml --from -
    tunnels plan --exit-code tunnels.yaml || echo "something would change"

    Exits 0; with --exit-code 1 if there is something to do; 2 if a file is not valid.
    """
    new, before = _found(config.paths or default_paths(config.environ), old)
    loaded = _load(config, new)
    simulated = (
        _from_old(config, loaded, before) if old else _from_running(control, new, loaded, strict=config.options.strict)
    )
    done = sorted(simulated.steps, key=lambda step: (_name(step), step["action"], step["why"]))
    if output == "json":
        told = {"actions": done, "errors": simulated.errors, "clients": simulated.clients}
        click.echo(json.dumps(redact_json(told), indent=2))
    else:
        for error in simulated.errors:
            complain("error", error)
        if not simulated.errors or done:
            click.echo("\n".join(_lines(done, loaded.desired, simulated.clients)))
    sys.exit(_INVALID if simulated.errors else int(exit_code and bool(done)))


# --- where the steps come from ----------------------------------------------------------------------------------


def _from_old(config: Config, loaded: Loaded, before: Sequence[Found]) -> _Foreseen:
    origin = _load(config, before)
    errors = [*_told(loaded), *map(str, origin.errors)]
    return _Foreseen([], errors) if errors else _between(origin.desired, loaded.desired)


def _from_running(control: Control, new: Sequence[Found], loaded: Loaded, *, strict: bool) -> _Foreseen:
    if unread := [str(one.problem) for one in new if one.problem is not None]:
        return _Foreseen([], unread)
    files = [{"name": one.name, "directory": one.directory, "text": _text(one)} for one in new]
    try:
        answer = control.post("/api/v1/plan", {"files": files, "strict": strict}, within=60.0)
    except NothingRuns:
        where = f" at {control.paths[0]}" if control.is_named else ""
        click.echo(f"nothing runs{where}: this is what a fresh start would do", err=True)
        errors = _told(loaded)
        return _Foreseen([], errors) if errors else _between(NOTHING, loaded.desired)
    except Trouble as trouble:
        raise _Invalid(trouble.message) from None
    for warning in answer["warnings"]:
        complain("warning", warning)
    steps: list[PlannedStep] = answer["actions"]
    # A process that was started before an upgrade has no sum of its own.
    clients = answer.get("clients", sum(step["clients"] for step in steps))
    return _Foreseen(steps, answer["errors"], clients)


def _between(old: Desired, new: Desired) -> _Foreseen:
    plan = between(old, new)
    steps = [
        PlannedStep(action=step.action, subject=step.subject, why=step.why, clients=step.clients) for step in plan.steps
    ]
    return _Foreseen(steps, [], plan.clients)


def _text(found: Found) -> str:
    try:
        return found.data.decode()
    except UnicodeDecodeError:
        raise _Invalid(f"{found.name}: not UTF-8") from None


def _told(loaded: Loaded) -> list[str]:
    """Its errors; its warnings are told at once."""
    for warning in loaded.warnings:
        complain("warning", warning)
    return [str(error) for error in loaded.errors]


# --- the files --------------------------------------------------------------------------------------------------


def _found(new: Sequence[str], old: Sequence[str]) -> tuple[list[Found], list[Found]]:
    """The bytes of all files. What comes by a pipe is taken to lie where the other side's file does.

    Else the relative paths in `git show main:etc/tunnels.yaml` would seem to have changed.
    """
    if not new:
        raise _Invalid("no file given, and there is no default one")
    if [*new, *old].count(STDIN) > 1:
        raise click.UsageError("only one of the files can be stdin")
    sides = [_read(new), _read(old)]
    homes = [[one.directory for one in side if not _is_piped(one.name)] for side in sides]
    beside = next((home[0] for home in homes if home), str(Path.cwd()))
    first, second = (
        [Found(one.name, beside, one.data, one.problem) if _is_piped(one.name) else one for one in side]
        for side in sides
    )
    return first, second


def _read(paths: Iterable[str]) -> list[Found]:
    made = []
    for path in paths:
        listed = listing(path)
        if listed.problem is not None:
            raise _Invalid(str(listed.problem))
        made += read_all(listed)
    return made


def _is_piped(name: str) -> bool:
    return name == "<stdin>" or (os.path.exists(name) and not os.path.isfile(name))  # noqa: PTH110, PTH113 - Path's raise where a name is too long


def _load(config: Config, found: Sequence[Found]) -> Loaded:
    return Config((), environ=config.environ, options=config.options).load(found)


# --- text -------------------------------------------------------------------------------------------------------


def _lines(done: Sequence[PlannedStep], desired: Desired, clients: int) -> list[str]:
    if not done:
        return ["Nothing to do."]
    rows = Counter((one["action"], _name(one), one["why"], one["clients"]) for one in done)
    whats = [f"{one[0]} x{times}" if times > 1 else one[0] for one, times in rows.items()]
    widest = max(map(len, whats)), max(len(subject) for _, subject, *_ in rows)
    made = []
    for (action, subject, why, live), what in zip(rows, whats, strict=True):
        sign = _SIGNS.get(action, "~")
        cut = " cut" if action == "assign" else ""  # by its new rules: those whom it leaves alone are not touched
        touched = f" ({count(live, 'live client')}{cut})" if live else ""
        head = f"{sign} {what:{widest[0]}} {clean(subject):{widest[1]}}  "
        made += _hanging(head, clean(_detail(action, subject, why, desired)) + touched)
    return [*made, "", _sum(done, clients)]


def _name(step: PlannedStep) -> str:
    """`prod` or `prod/pg`: a target stands before its tunnels."""
    return step["subject"].partition(" ")[2] or step["subject"]


def _hanging(head: str, text: str) -> list[str]:
    """The text beside its head, in as many lines as the terminal needs; colour for the sign that begins it."""
    indent = " " * (len(head) if len(head) <= _HEAD_MAX else 4)
    columns = max(width() or _WIDE, len(indent) + _TEXT_MIN)
    lines = textwrap.wrap(
        head + text, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return [painted(lines[0][:1], _COLOURS[head[:1]]) + lines[0][1:], *lines[1:]]


def _detail(action: str, subject: str, why: str, desired: Desired) -> str:
    """Where it leads, for what begins; why, for what changes or ends."""
    tunnel, target = desired.tunnels.get(subject), desired.targets.get(subject)
    if action == "open" and tunnel is not None:
        return f"{tunnel.listen} -> {tunnel.route}"
    if action == "dial" and target is not None and why == "the configuration asks for it":
        return ", ".join(str(host) for host in target.access.hop.hosts)
    return why


def _sum(done: Sequence[PlannedStep], clients: int) -> str:
    tunnels = {sign: set[str]() for sign in "+~-"}
    for one in done:
        if one["subject"].startswith("tunnel ") and one["action"] not in ("drain", "cut"):
            tunnels[_SIGNS.get(one["action"], "~")].add(one["subject"])
    both = tunnels["+"] & tunnels["-"]  # closed here, opened there: the same tunnel on another address
    opened, closed, changed = tunnels["+"] - both, tunnels["-"] - both, tunnels["~"] | both
    said = f"{count(len(opened), 'tunnel')} to open, {len(changed)} to change, {len(closed)} to close"
    if dialled := sum(one["action"] == "dial" for one in done):
        said += f", {count(dialled, 'connection')} to make"
    return f"{said}; {count(clients, 'live client')} touched." if clients else f"{said}."
