"""The arguments and options that the commands for a running process share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from reconciler.cli.client import Control, Trouble
from reconciler.cli.responses import Tunnel

_C = TypeVar("_C", bound=Callable[..., Any])
_OFF = {"disabled": "the file says `enabled: false`", "expired": "its `expiresAt` has passed"}


def _complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The ids of the running process; none where nothing runs."""
    control = ctx.params.get("control")
    try:
        answer = (control if isinstance(control, Control) else Control()).get("/api/v1/status", within=1.0)
    except Trouble:
        return []
    return [CompletionItem(one["id"]) for one in answer["tunnels"] if one["id"].startswith(incomplete)]


def control(command: _C) -> _C:
    """`--control`, given to the command as a `Control`."""
    return click.option(
        "--control",
        metavar="PATH",
        envvar="TUNNELS_CONTROL",
        show_envvar=True,
        callback=lambda _ctx, _param, value: Control(value or ""),
        help="The control socket of the running process.",
    )(command)


def ids(*, required: bool = False) -> Callable[[_C], _C]:
    """`[ID]...`, given to the command as `ids`."""
    metavar = "ID..." if required else "[ID]..."
    return click.argument("ids", nargs=-1, required=required, metavar=metavar, shell_complete=_complete)


def one_id(command: _C) -> _C:
    """`ID`, given to the command as `pattern`."""
    return click.argument("pattern", metavar="ID", shell_complete=_complete)(command)


def output(json_help: str) -> Callable[[_C], _C]:
    """`--output text|json`."""
    return click.option(
        "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help=f"json: {json_help}"
    )


def off(control: Control) -> dict[str, str]:
    """Why tunnels are off, by id: no restart turns them on."""
    tunnels: list[Tunnel] = control.get("/api/v1/status").get("tunnels", [])
    whys = {tunnel["id"]: tunnel["message"] or "" for tunnel in tunnels if tunnel["phase"] == "off"}
    return {tunnel: _OFF.get(why, why) for tunnel, why in whys.items()}


def all_or_ids(ids: tuple[str, ...], everything: bool) -> list[str]:
    """The globs to send for `ID...` or `--all`. Raises Trouble unless it is the one or the other."""
    if bool(ids) == everything:
        raise Trouble("name the tunnels or targets (globs will do), or say --all; not both")
    return ["*"] if everything else list(ids)
