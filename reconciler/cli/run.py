"""`tunnels run`: the daemon, optionally with a program that runs while the tunnels are up."""

from __future__ import annotations

import asyncio
import gc
import os
import sys

import click
from click.core import ParameterSource

from reconciler.cli.child_process import run_child
from reconciler.cli.files import judged_files
from reconciler.cli.param_types import DURATION
from reconciler.cli.terminal import logs
from reconciler.cli.terminal.table import print_message
from reconciler.config.load import Config
from reconciler.core.shard import InvalidShardError, Shard, parse_shard
from reconciler.runtime.app import App
from reconciler.runtime.endpoints import DEFAULT_LISTEN, EndpointError, Endpoints, serving
from reconciler.runtime.instance import instance_name
from reconciler.system.daemon_threads import DaemonThreads
from reconciler.system.descriptors import raise_soft_limit
from reconciler.system.event_loop import readiness

_INVALID = 2
_THREADS = 32  # for blocking calls, mostly file access


class _Run(click.Command):
    """Takes the arguments after `--` as the program to run while the tunnels are up."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            cut = args.index("--")
            args, ctx.obj = args[:cut], tuple(args[cut + 1 :])
            if not ctx.obj:
                raise click.UsageError("expected a command after --", ctx)
        rest = super().parse_args(ctx, args)
        if (
            not ctx.obj
            and not ctx.resilient_parsing
            and ctx.get_parameter_source("timeout") is ParameterSource.COMMANDLINE
        ):
            raise click.UsageError("--timeout needs -- CMD: it is how long CMD waits for the tunnels", ctx)
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- CMD...]"]


class _Shard(click.ParamType[Shard]):
    """Converts `0/3` to the first of three shards. For `3`, the shard is the ordinal in the name of the pod."""

    name = "shard"

    def convert(self, value: str | Shard, param: click.Parameter | None, ctx: click.Context | None) -> Shard:
        if isinstance(value, Shard):
            return value
        try:
            return parse_shard(value, instance_name(os.environ))
        except InvalidShardError as error:
            self.fail(str(error), param, ctx)


def _names(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


@click.command("run", cls=_Run)
@judged_files
@click.option(
    "--listen",
    metavar="ADDRESS",
    envvar="TUNNELS_LISTEN",
    show_envvar=True,
    help=f"Address of metrics, health checks and the status page, or none.  [default: {DEFAULT_LISTEN}, if it is free]",
)
@click.option(
    "--control",
    metavar="PATH",
    envvar="TUNNELS_CONTROL",
    show_envvar=True,
    help="Path of the control socket, or none.  [default: $XDG_RUNTIME_DIR/tunnels.sock or a fallback]",
)
@click.option(
    "--log-level",
    type=click.Choice(logs.LEVELS),
    default="info",
    envvar="TUNNELS_LOG_LEVEL",
    show_envvar=True,
    show_default=True,
    help="Lowest level of log lines on stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(logs.FORMATS),
    default="text",
    envvar="TUNNELS_LOG_FORMAT",
    show_envvar=True,
    show_default=True,
    help="json: one object per line.",
)
@click.option(
    "--metric-labels", metavar="A,B", default="", callback=_names, help="Tunnel labels to export in ssh_tunnel_info."
)
@click.option("--expose-status", is_flag=True, help="Serve the status page on addresses other than loopback too.")
@click.option(
    "--allowed-hosts",
    metavar="A,B",
    default="",
    callback=_names,
    help="Host names under which the status page may be requested.",
)
@click.option(
    "--shard",
    type=_Shard(),
    metavar="[I/]N",
    envvar="TUNNELS_SHARD",
    show_envvar=True,
    help="Run only part I of N of the targets, counted from 0. I may be a name that ends with -I; without it, I comes "
    "from the name of the StatefulSet's pod: $POD_NAME or the host name.",
)
@click.option(
    "--timeout",
    type=DURATION,
    default="30s",
    show_default=True,
    metavar="DURATION",
    help="With CMD: how long to wait for the tunnels.",
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
    r"""Open the tunnels of FILE... and keep them matching the files as they change.

    FILE may be a directory. The default is $TUNNELS_CONFIG, ./tunnels.yaml, or $XDG_CONFIG_HOME/tunnels/.

    SIGHUP reads the files again. SIGTERM stops accepting and ends the process when the clients have drained; a second
    SIGTERM ends it at once. Exits 0 after SIGTERM, and 2 if no file is valid at the start or if an address that was
    given cannot be opened.

    With -- CMD, runs CMD once all tunnels are up, and ends when CMD does. For tunnel prod/pg-main, CMD gets
    TUNNEL_PROD_PG_MAIN_HOST and TUNNEL_PROD_PG_MAIN_PORT in its environment (upper case, with _ for characters other
    than letters and digits). Exits with the exit code of CMD, or 1 if the tunnels are not up within --timeout, or 1 at
    once if each tunnel that is missing needs action.

    \b
    tunnels run tunnels.yaml
    tunnels run tunnels.yaml -- sh -c 'psql -h "$TUNNEL_PROD_PG_HOST" -p "$TUNNEL_PROD_PG_PORT"'
    """
    logs.set_up(log_level, log_format)
    raise_soft_limit()
    # Imported objects live until the end. Without this, each full collection spends 37 ms of processor time on them.
    gc.freeze()
    endpoints = Endpoints(listen, control, metric_labels, expose_status, allowed_hosts)
    try:
        code = readiness.run(_run(config, endpoints, shard, program or (), timeout))
    except EndpointError as error:
        print_message("error", error)
        code = _INVALID
    sys.exit(code)


async def _run(
    config: Config, endpoints: Endpoints, shard: Shard | None, program: tuple[str, ...], within: float
) -> int:
    asyncio.get_running_loop().set_default_executor(DaemonThreads(_THREADS))
    app = App(config, shard=shard)
    asyncio.get_running_loop().set_exception_handler(app.unhandled)
    with app.shutdown.handle_signals():  # before the endpoints are made, so that early signals count too
        async with serving(app, endpoints):
            return await (run_child(app, program, within) if program else app.run())
