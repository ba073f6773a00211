"""Runs `ssh -G`, which prints the settings that ssh would use for a connection, and parses what it prints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from reconciler.cli.ssh_import.config_files import ConfigCopy
from reconciler.core.secret import may_hold_secret

_SECONDS = 20.0  # ssh may look up names (CanonicalizeHostname) and run programs (Match exec)
_CHARACTERS = 240  # of a message of ssh
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_NOISE = re.compile(r"Pseudo-terminal will not|Cannot forward agent|usage:|\[-")

Fields = dict[str, object]  # of a target, a jump host or a tunnel in tunnels.yaml


class SshRefusedError(Exception):
    """ssh does not accept the input. The message is ssh's own."""


class NoSshError(Exception):
    """ssh is not installed. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What `ssh -G` printed: the values of each keyword, in lower case, in their order."""

    values: Mapping[str, tuple[str, ...]]

    def all(self, keyword: str) -> tuple[str, ...]:
        return self.values.get(keyword, ())

    def first(self, keyword: str, default: str = "") -> str:
        """Return the value of the keyword, or the default: ssh leaves out most keywords that are not set."""
        return next(iter(self.all(keyword)), default)

    @property
    def given_host(self) -> str:
        """The host as the command or ssh_config names it. A `HostName` may replace it."""
        return self.first("host", self.first("hostname"))

    def is_on(self, keyword: str) -> bool:
        return self.first(keyword, "no") not in ("no", "false", "none")


def settings_in(text: str) -> Settings:
    values: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        values[keyword.lower()] = (*values.get(keyword.lower(), ()), value)
    return Settings(values)


@dataclass
class OpenSsh:
    """The ssh of this machine.

    program  its path
    environ  the environment that it gets
    """

    program: str
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    @cached_property
    def defaults(self) -> Settings:
        """The settings without any configuration."""
        return self.resolve(("-F", "none", "localhost"))

    def resolve(
        self, arguments: Sequence[str], config: ConfigCopy | None = None, environ: Mapping[str, str] | None = None
    ) -> Settings:
        """Return the settings for these arguments. Raises SshRefusedError."""
        words = [self.program, "-G", *(("-F", str(config.path)) if config else ()), *arguments]
        try:
            ran = subprocess.run(  # noqa: S603 - no shell; the words come from the user
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
                env={**self.environ, **(environ or {}), "LC_ALL": "C"},
                start_new_session=True,  # no terminal to ask on
            )
        except subprocess.TimeoutExpired:
            raise SshRefusedError(f"`ssh -G` took over {_SECONDS:g} s: check names and `Match exec`") from None
        except (OSError, ValueError) as error:  # ValueError: a zero byte
            raise SshRefusedError(f"cannot run ssh ({getattr(error, 'strerror', None) or error})") from None
        settings = settings_in(ran.stdout.decode("utf-8", "replace"))
        if ran.returncode != 0 or not settings.all("hostname"):
            text = ran.stderr.decode("utf-8", "replace")
            raise SshRefusedError(_refusal(config.with_original_paths(text) if config else text))
        return settings


def openssh() -> OpenSsh:
    """Return the ssh of this machine. Raises NoSshError."""
    program = shutil.which("ssh")
    if program is None:
        raise NoSshError("ssh is not installed, and import needs it to read its own options: install OpenSSH's client")
    return OpenSsh(program)


def shown(text: str) -> str:
    """Return a word for a message, `...` if it may contain a password or a token."""
    return "..." if may_hold_secret(text) else text


def _refusal(text: str) -> str:
    """Return the first line of ssh's messages that names a problem, without words that may be secrets."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = next((line for line in lines if not _NOISE.match(line)), "invalid arguments")
    # ssh quotes parts of its input, and one may be a password in the wrong place.
    words = map(shown, _QUOTED.sub("...", line).split())
    return f"ssh refuses it ({' '.join(words)[:_CHARACTERS]})"
