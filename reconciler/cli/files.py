"""FILE... and the options that restrict files, for `run`, `check`, `plan` and `trust`. Not `trust`: the policy."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from reconciler.config.load import Config
from reconciler.config.options import Options
from reconciler.config.policy_file import PolicyFile


def files(command: Callable[..., None]) -> Callable[..., None]:
    """Pass the FILE arguments and options to the command as one `Config`."""

    # Not readable=True: the loader reports a file that cannot be read, and still loads the others.
    @click.argument("paths", nargs=-1, metavar="[FILE]...", type=click.Path(readable=False))
    @click.option("--strict", is_flag=True, help="Treat warnings as errors, and fail if any file is invalid.")
    @click.option(
        "--secrets-dir",
        metavar="DIR",
        default="",
        help="Read keys, certificates, passwords and passphrases only from files in DIR. Does not restrict variables, "
        "secrets written in a file, agents or knownHosts.",
    )
    @click.option(
        "--secrets-dir-only",
        is_flag=True,
        help="With --secrets-dir: refuse secrets from variables, secrets written in a file, and agents with a socket "
        "outside DIR.",
    )
    @click.option(
        "--allow-env",
        metavar="PREFIX",
        multiple=True,
        help="Allow only variables that begin with PREFIX, in ${...} and {env: ...} (may be repeated).",
    )
    @click.option("--allow-commands", is_flag=True, help="Allow files to run programs (proxyCommand).")
    @wraps(command)
    def with_config(
        paths: tuple[str, ...],
        strict: bool,
        secrets_dir: str,
        secrets_dir_only: bool,
        allow_env: tuple[str, ...],
        allow_commands: bool,
        **others: Any,  # the command's own options
    ) -> None:
        if secrets_dir_only and not secrets_dir:
            raise click.UsageError("--secrets-dir-only needs --secrets-dir DIR")
        options = Options(
            strict=strict,
            secrets_dir=secrets_dir,
            secrets_dir_only=secrets_dir_only,
            allow_env=allow_env or None,
            allow_commands=allow_commands,
        )
        command(config=Config(paths, environ=dict(os.environ), options=options), **others)

    return with_config


def judged_files(command: Callable[..., None]) -> Callable[..., None]:
    """Pass the FILE arguments, the options and the policy to the command as one `Config`."""

    @files
    @click.option(
        "--policy",
        metavar="FILE",
        envvar="TUNNELS_POLICY",
        show_envvar=True,
        help="Refuse files that do more than this policy permits (see docs/how-to/teams.md).",
    )
    @wraps(command)
    def with_policy(config: Config, policy: str | None, **others: Any) -> None:
        if policy == "":
            raise click.BadParameter("expected the path of a policy file, got an empty value", param_hint="--policy")
        if policy is not None:
            config.policy = PolicyFile(policy, config.environ)
        command(config=config, **others)

    return with_policy
