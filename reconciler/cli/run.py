"""`tunnels run`."""

from __future__ import annotations

import asyncio
import gc
import re
import sys

import click
from click.core import ParameterSource

from reconciler.cli.child_process import run_child
from reconciler.cli.files import files
from reconciler.cli.terminal import logs
from reconciler.cli.terminal.table import complain
from reconciler.cli.values import DURATION
from reconciler.config.load import Config
from reconciler.core.overlay import Shard
from reconciler.runtime.app import App
from reconciler.runtime.endpoints import DEFAULT_LISTEN, EndpointError, Endpoints, serving
from reconciler.system.daemon_threads import DaemonThreads
from reconciler.system.descriptors import raise_soft_limit

_INVALID = 2
_THREADS = 32  # for what blocks: files, above all


class _Run(click.Command):
    """Takes what stands behind `--` for the program to run beside the tunnels."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            cut = args.index("--")
            args, ctx.obj = args[:cut], tuple(args[cut + 1 :])
            if not ctx.obj:
                raise click.UsageError("after -- comes the program to run", ctx)
        rest = super().parse_args(ctx, args)
        if (
            not ctx.obj
            and not ctx.resilient_parsing
            and ctx.get_parameter_source("timeout") is ParameterSource.COMMANDLINE
        ):
            raise click.UsageError("--timeout is how long CMD waits for the tunnels: there is no -- CMD", ctx)
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- CMD...]"]


class _Shard(click.ParamType[Shard]):
    """`0/3` -> the first of three."""

    name = "shard"

    def convert(self, value: str | Shard, param: click.Parameter | None, ctx: click.Context | None) -> Shard:
        if isinstance(value, Shard):
            return value
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", value, re.ASCII)
        if found is None or int(found[1]) >= int(found[2]):
            self.fail(f"{value!r} is no shard; of three there are 0/3, 1/3 and 2/3", param, ctx)
        return Shard(int(found[1]), int(found[2]))


def _names(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


@click.command("run", cls=_Run)
@files
@click.option(
    "--listen",
    metavar="ADDRESS",
    envvar="TUNNELS_LISTEN",
    show_envvar=True,
    help=f"Metrics, health and status page; none: nowhere.  [default: {DEFAULT_LISTEN}, if it is free]",
)
@click.option(
    "--control",
    metavar="PATH",
    envvar="TUNNELS_CONTROL",
    show_envvar=True,
    help="The unix socket for the other commands; none: none.  [default: $XDG_RUNTIME_DIR/tunnels.sock or the like]",
)
@click.option(
    "--log-level",
    type=click.Choice(logs.LEVELS),
    default="info",
    envvar="TUNNELS_LOG_LEVEL",
    show_envvar=True,
    show_default=True,
    help="How much to tell on stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(logs.FORMATS),
    default="text",
    envvar="TUNNELS_LOG_FORMAT",
    show_envvar=True,
    show_default=True,
    help="json: one object a line.",
)
@click.option(
    "--metric-labels", metavar="A,B", default="", callback=_names, help="Labels of tunnels to show in ssh_tunnel_info."
)
@click.option("--expose-status", is_flag=True, help="Show the status page beyond loopback too.")
@click.option(
    "--allowed-hosts",
    metavar="A,B",
    default="",
    callback=_names,
    help="Names by which the status page may be asked for.",
)
@click.option("--shard", type=_Shard(), metavar="I/N", help="Take only the I-th of N parts of the targets, from 0.")
@click.option(
    "--timeout",
    type=DURATION,
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="With CMD: how long the tunnels may take to come up.",
)
@click.pass_obj
def command(
    program: tuple[str, ...] | None,
    config: Config,
    listen: str | None,
    control: str | None,
    log_level: str,
    log_format: str,
    metric_labels: tuple[str, ...],
    expose_status: bool,
    allowed_hosts: tuple[str, ...],
    shard: Shard | None,
    timeout: float,
) -> None:
    r"""Converge on FILE..., and keep converging as they change.

    A FILE may be a directory. Without one: $TUNNELS_CONFIG, ./tunnels.yaml, or $XDG_CONFIG_HOME/tunnels/.

    SIGHUP reads the files again. SIGTERM stops accepting, lets clients drain and exits 0; a second one ends at once.
    Exits 2 if no file is valid at the start.

    With -- CMD: runs CMD once all tunnels are up, and ends with it and its exit code; 1 if they are not up in
    --timeout. For tunnel prod/pg-main CMD finds TUNNEL_PROD_PG_MAIN_HOST and TUNNEL_PROD_PG_MAIN_PORT in its
    environment (letters in capitals, _ for all but letters and digits).

    \b
    tunnels run tunnels.yaml
    tunnels run tunnels.yaml -- sh -c 'psql -h "$TUNNEL_PROD_PG_HOST" -p "$TUNNEL_PROD_PG_PORT"'
    """
    logs.set_up(log_level, log_format)
    raise_soft_limit()
    # What the imports made stays until the end. To look through it took each full collection 37 ms of processor time.
    gc.freeze()
    endpoints = Endpoints(listen, control, metric_labels, expose_status, allowed_hosts)
    try:
        code = asyncio.run(_run(config, endpoints, shard, program or (), timeout))
    except EndpointError as error:
        complain("error", error)
        code = _INVALID
    sys.exit(code)


async def _run(
    config: Config, endpoints: Endpoints, shard: Shard | None, program: tuple[str, ...], within: float
) -> int:
    asyncio.get_running_loop().set_default_executor(DaemonThreads(_THREADS))
    app = App(config, shard=shard)
    asyncio.get_running_loop().set_exception_handler(app.unhandled)
    with app.shutdown.handle_signals():  # also those that come while the endpoints are made
        async with serving(app, endpoints):
            return await (run_child(app, program, within) if program else app.run())
