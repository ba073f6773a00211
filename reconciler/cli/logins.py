"""What `check` knows of logins beyond the file: whether keys can be used; and, with --connect, whether we get in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

import asyncssh

from reconciler.config.load import Loaded
from reconciler.core.spec import AgentLogin, Hop, KeyLogin, Login, PasswordLogin, TargetSpec
from reconciler.ssh.connect.algorithms import known
from reconciler.ssh.connect.credentials import unusable_credentials
from reconciler.ssh.connect.dial import DialFailed, dial

_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """What came of one target. `message` is a sentence; `reason` is from the closed set, "" where it let us in."""

    target: str
    reason: str
    message: str

    @property
    def ok(self) -> bool:
        return not self.reason


class KeyInspector:
    """Tells the reader of the files what no server will ever be asked with: `config.options.Inspector`.

    Each key is looked into once, however many targets it is for: to open an encrypted one takes a while.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self._found: dict[tuple[KeyLogin | AgentLogin, bool], tuple[str, str]] = {}

    def unusable_credential(self, hop: Hop, login: Login) -> tuple[str, str]:
        if isinstance(login, PasswordLogin):
            return "", ""
        asked = (login, hop.strict_key_permissions)
        if asked not in self._found:
            message = self._message(hop, login)
            self._found[asked] = (message, self._field(hop, login, message)) if message else ("", "")
        return self._found[asked]

    def algorithms(self, kind: str) -> tuple[str, ...]:
        return known(kind)

    def _message(self, hop: Hop, login: Login) -> str:
        found = asyncio.run(unusable_credentials(replace(hop, logins=(login,)), self.environ))
        return found[0].message if found else ""

    def _field(self, hop: Hop, login: Login, message: str) -> str:
        """What is to blame: that without which the message would be another."""
        if isinstance(login, KeyLogin):
            alone = replace(login, certificate=None)
            if login.certificate and self._message(hop, alone) != message:
                return "certificate"
            if login.passphrase and self._message(hop, replace(alone, passphrase=None)) != message:
                return "passphrase"
        return "privateKey"


def log_in_to_all(loaded: Loaded, environ: Mapping[str, str]) -> list[LoggedIn]:
    """In the order of the files; targets that are off are passed over, unless it is a gap that keeps them off."""
    return asyncio.run(_all(loaded, environ))


async def _all(loaded: Loaded, environ: Mapping[str, str]) -> list[LoggedIn]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(target: TargetSpec) -> LoggedIn:
        if target.name in loaded.broken:
            return LoggedIn(target.name, "secret_unreadable", loaded.broken[target.name])
        async with gate:
            return await _log_in(target, environ)

    targets = [target for target in loaded.desired.targets.values() if not target.off or target.name in loaded.broken]
    return list(await asyncio.gather(*map(one, targets)))


async def _log_in(target: TargetSpec, environ: Mapping[str, str]) -> LoggedIn:
    access = target.access
    try:
        dialled = await dial(
            access,
            target.settings,
            len(access.hop.hosts),
            name=target.name,
            client=asyncssh.SSHClient,
            environ=environ,
        )
    except DialFailed as failed:
        return LoggedIn(target.name, failed.failure.reason, failed.failure.message)
    dialled.connection.close()
    await dialled.connection.wait_closed()
    said = [f"{access.hop.hosts[dialled.host]} lets {access.hop.user} in ({dialled.seconds:.2f} s)"]
    if not dialled.host_key_verified:
        said.append("host keys are not checked")
    return LoggedIn(target.name, "", "; ".join([*said, *dialled.warnings]))
