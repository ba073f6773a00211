"""`tunnels wait`."""

from __future__ import annotations

import time

import click

from reconciler.cli import options
from reconciler.cli.client import Control, Refused, Trouble
from reconciler.cli.ids import named
from reconciler.cli.values import DURATION

_RETRY = 0.1  # seconds between two looks for a process that is still to start
_ENDED = 503  # of a process that goes while it is asked
_SLACK = 5.0  # the process answers when the time is over; it may be a little late


@click.command("wait")
@options.ids()
@click.option(
    "--revision",
    metavar="R",
    help="Also wait until files with this revision are loaded and converged; `check --output json` says theirs.",
)
@click.option("--timeout", type=DURATION, default="30s", show_default=True, metavar="DURATION", help="At most so long.")
@options.control
def command(ids: tuple[str, ...], revision: str | None, timeout: float, control: Control) -> None:
    r"""Wait until tunnels are up: those named, or all.

    Waits for the process too, if it is only just starting, or being replaced.

    \b
    tunnels run tunnels.yaml & tunnels wait && psql -h localhost -p 5432
    tunnels wait 'prod/*' --timeout 2m
    tunnels wait --revision "$(tunnels check --output json tunnels.yaml | jq -r .revision)"

    Exits 0 when they are, 1 if they are not in time, and at once if that revision was rejected.
    """
    if revision == "":
        raise click.BadParameter(
            "it is empty: `check --output json` has a revision for every file that is there", param_hint="--revision"
        )
    with named(control, ids):
        _wait(ids, revision, timeout, control)


def _wait(ids: tuple[str, ...], revision: str | None, timeout: float, control: Control) -> None:
    deadline = time.monotonic() + timeout
    while True:
        left = max(0.0, deadline - time.monotonic())
        query = {"revision": revision, "ids": ",".join(ids), "timeout": f"{left:.3f}"}
        try:
            control.get("/api/v1/wait", within=left + _SLACK, **{name: said for name, said in query.items() if said})
        except Trouble as trouble:  # it is starting, or being replaced
            if isinstance(trouble, Refused) and trouble.status != _ENDED:
                raise
            if time.monotonic() + _RETRY >= deadline:
                raise Trouble(f"not in time: {trouble.message}") from None
            time.sleep(_RETRY)
        else:
            return
