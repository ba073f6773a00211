"""A real sshd with a PAM stack of its own, which needs root and a writable /etc/pam.d."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from support.sshd import Sshd, sshd_binary

_STACKS = Path("/etc/pam.d")
_MODULES = ("/lib/security", "/lib64/security", "/usr/lib/security", "/usr/lib64/security")


class PamUnavailableError(Exception):
    """Raised where sshd cannot run with a PAM stack of the test."""


class PamSshd(Sshd):
    """sshd with `UsePAM`. The name of its PAM stack is that of the program, here a link to sshd."""

    def __init__(self, directory: Path, stack: str, *, options: Mapping[str, str] | None = None) -> None:
        """`stack`: the lines of the stack; a session line is added."""
        if os.geteuid() != 0 or not os.access(_STACKS, os.W_OK):
            raise PamUnavailableError("sshd with PAM needs root and a writable /etc/pam.d")
        super().__init__(directory, options={"UsePAM": "yes", **(options or {})})
        self._program = directory / f"sshd-test-{self.port}"
        self._stack = _STACKS / self._program.name
        self._lines = f"{stack}\nsession required pam_permit.so\n"

    def command(self) -> list[str]:
        command = super().command()
        command[command.index(sshd_binary())] = str(self._program)
        return command

    async def __aenter__(self) -> Self:
        self._program.symlink_to(sshd_binary())
        self._stack.write_text(self._lines)
        try:
            return await super().__aenter__()
        except BaseException:
            self._stack.unlink()
            raise

    async def __aexit__(self, *exc: object) -> None:
        try:
            await super().__aexit__(*exc)
        finally:
            self._stack.unlink()


def has_module(name: str) -> bool:
    """Return True if the PAM module is installed."""
    roots = [*map(Path, _MODULES), *Path("/lib").glob("*-linux-gnu/security")]
    return any((root / name).exists() for root in roots)
