"""Arguments and options shared by the commands that talk to the running process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from reconciler.cli.client import CommandError, Control
from reconciler.cli.responses import TunnelJson

_C = TypeVar("_C", bound=Callable[..., Any])
_OFF = {"disabled": "the file has `enabled: false`", "expired": "its `expiresAt` has passed"}


def _complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete tunnel ids of the running process; none if no process runs."""
    control = ctx.params.get("control")
    try:
        answer = (control if isinstance(control, Control) else Control()).get("/api/v1/status", within=1.0)
    except CommandError:
        return []
    return [CompletionItem(tunnel["id"]) for tunnel in answer["tunnels"] if tunnel["id"].startswith(incomplete)]


def control(command: _C) -> _C:
    """Add `--control`, passed to the command as a `Control`."""
    return click.option(
        "--control",
        metavar="PATH",
        envvar="TUNNELS_CONTROL",
        show_envvar=True,
        callback=lambda _ctx, _param, value: Control(value or ""),
        help="The control socket of the running process.",
    )(command)


def ids(*, required: bool = False) -> Callable[[_C], _C]:
    """Add `[ID]...`, passed to the command as `ids`."""
    metavar = "ID..." if required else "[ID]..."
    return click.argument("ids", nargs=-1, required=required, metavar=metavar, shell_complete=_complete)


def one_id(command: _C) -> _C:
    """Add `ID`, passed to the command as `pattern`."""
    return click.argument("pattern", metavar="ID", shell_complete=_complete)(command)


def output(json_help: str) -> Callable[[_C], _C]:
    """Add `--output text|json`."""
    return click.option(
        "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help=f"json: {json_help}"
    )


def off_reasons(control: Control, *, paused: bool) -> dict[str, str]:
    """Return by id why tunnels are off. `paused`: also for the paused ones."""
    tunnels: list[TunnelJson] = control.get("/api/v1/status").get("tunnels", [])
    return {
        tunnel["id"]: _OFF.get(tunnel.get("off", ""), tunnel["message"] or "")
        for tunnel in tunnels
        if tunnel["phase"] == "off" and (paused or tunnel.get("off") != "paused")
    }


def all_or_ids(ids: tuple[str, ...], everything: bool) -> list[str]:
    """Return the globs to send for `ID...` or `--all`. Raises CommandError unless exactly one of them is given."""
    if bool(ids) == everything:
        raise CommandError("expected either --all or the ids of tunnels or targets (globs are allowed)")
    return ["*"] if everything else list(ids)
