"""FILE... and what restricts files: the arguments that `run`, `check` and others share."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from reconciler.config.load import Config
from reconciler.config.options import Options


def files(command: Callable[..., None]) -> Callable[..., None]:
    """Give the command its configuration: the FILE arguments and options as one `Config`."""

    # Not readable=True: a file that cannot be read is for the loader to report, beside those that can.
    @click.argument("paths", nargs=-1, metavar="[FILE]...", type=click.Path(readable=False))
    @click.option("--strict", is_flag=True, help="Warnings are errors, and so is a bad file among good ones.")
    @click.option(
        "--secrets-dir",
        metavar="DIR",
        default="",
        help="Files with keys, certificates, passwords and passphrases must lie in DIR, also when they are read. Not "
        "fenced by it alone: variables, secrets written in a file, agents, knownHosts.",
    )
    @click.option(
        "--secrets-dir-only",
        is_flag=True,
        help="With --secrets-dir: nothing else may be a secret: no variable, nothing written in a file, no agent whose "
        "socket is not in DIR.",
    )
    @click.option(
        "--allow-env",
        metavar="PREFIX",
        multiple=True,
        help="Files may name only variables that begin with PREFIX, in ${...} and as {env: ...} (may be repeated).",
    )
    @click.option("--allow-commands", is_flag=True, help="Files may run programs (proxyCommand).")
    @wraps(command)
    def with_config(
        paths: tuple[str, ...],
        strict: bool,
        secrets_dir: str,
        secrets_dir_only: bool,
        allow_env: tuple[str, ...],
        allow_commands: bool,
        **others: Any,  # the command's own options, as click found them
    ) -> None:
        if secrets_dir_only and not secrets_dir:
            raise click.UsageError("--secrets-dir-only goes with --secrets-dir DIR")
        options = Options(
            strict=strict,
            secrets_dir=secrets_dir,
            secrets_dir_only=secrets_dir_only,
            allow_env=allow_env or None,
            allow_commands=allow_commands,
        )
        command(config=Config(paths, environ=os.environ, options=options), **others)

    return with_config
