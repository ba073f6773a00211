"""`tunnels wait`: wait until tunnels are up."""

from __future__ import annotations

import time

import click

from reconciler.cli import shared_options
from reconciler.cli.client import CommandError, Control, RequestRefusedError
from reconciler.cli.ids import explained
from reconciler.cli.param_types import DURATION

_RETRY = 0.1  # seconds between attempts while no process listens yet
_ENDED = 503  # the process ended during the request
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

    Exits 0 when they are up, 1 on timeout, and 1 at once if the revision was rejected.
    """
    if revision == "":
        raise click.BadParameter(
            "expected a revision as printed by `check --output json`, got an empty value", param_hint="--revision"
        )
    with explained(control, ids):
        _wait(ids, revision, timeout, control)


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
