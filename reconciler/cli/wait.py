"""`tunnels wait`: wait until tunnels are up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from reconciler.cli import shared_options
from reconciler.cli.client import CommandError, Control, RequestRefusedError
from reconciler.cli.ids import explained
from reconciler.cli.param_types import DURATION
from reconciler.cli.responses import TunnelJson
from reconciler.core.text.progress import Progress
from reconciler.system.terminal_line import TerminalLine, terminal_line

_RETRY = 0.1  # seconds between attempts while no process listens yet
_ENDED = 503  # the process ended during the request
_INTERVAL = 0.5  # seconds between two updates of the progress
_SLACK = 5.0  # seconds; the process responds at the timeout, perhaps slightly later


@click.command("wait")
@shared_options.ids()
@click.option(
    "--revision",
    metavar="R",
    help="Also wait until files with this revision are loaded and converged (see `check --output json`).",
)
@click.option(
    "--timeout", type=DURATION, default="30s", show_default=True, metavar="DURATION", help="The longest time to wait."
)
@shared_options.control
def command(ids: tuple[str, ...], revision: str | None, timeout: float, control: Control) -> None:
    r"""Wait until tunnels are up: all, or those that the IDs match.

    Also waits for a process that is starting or being replaced.

    \b
    tunnels run tunnels.yaml & tunnels wait && psql -h localhost -p 5432
    tunnels wait 'prod/*' --timeout 2m
    tunnels wait --revision "$(tunnels check --output json tunnels.yaml | jq -r .revision)"

    On a terminal, shows how many are up. Exits 0 when they are up, and 1 on timeout. Exits 1 at once if the revision
    was rejected, or if each tunnel that is missing needs action: no retry helps, as with a wrong key.
    """
    if revision == "":
        raise click.BadParameter(
            "expected a revision as printed by `check --output json`, got an empty value", param_hint="--revision"
        )
    with explained(control, ids), _progress_shown(ids, control):
        _wait(ids, revision, timeout, control)


@contextmanager
def _progress_shown(ids: tuple[str, ...], control: Control) -> Iterator[None]:
    """Show the progress on a terminal while the block runs."""
    with terminal_line() as line:
        ended = threading.Event()
        thread = threading.Thread(target=_show_progress, args=(ids, control, line, ended), daemon=True)
        if line.is_shown:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if line.is_shown:
                thread.join(_INTERVAL)


def _show_progress(ids: tuple[str, ...], control: Control, line: TerminalLine, ended: threading.Event) -> None:
    while not ended.wait(_INTERVAL):
        try:
            tunnels: list[TunnelJson] = control.get("/api/v1/status")["tunnels"]
        except CommandError:  # the process may be starting: `_wait` reports what lasts
            continue
        progress = Progress.of(((one["id"], one["phase"], one["needsAction"]) for one in tunnels), ids)
        if progress.missing and not ended.is_set():
            line.show(str(progress))


def _wait(ids: tuple[str, ...], revision: str | None, timeout: float, control: Control) -> None:
    deadline = time.monotonic() + timeout
    while True:
        left = max(0.0, deadline - time.monotonic())
        query = {"revision": revision, "ids": ",".join(ids), "timeout": f"{left:.3f}"}
        try:
            control.get("/api/v1/wait", within=left + _SLACK, **{name: value for name, value in query.items() if value})
        except CommandError as error:  # the process may be starting or being replaced
            if isinstance(error, RequestRefusedError) and error.status != _ENDED:
                raise
            if time.monotonic() + _RETRY >= deadline:
                raise CommandError(f"timed out: {error.message}") from None
            time.sleep(_RETRY)
        else:
            return
