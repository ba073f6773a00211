"""Checks of logins that go beyond the file: whether keys can be used and, for --connect, whether logins succeed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

import asyncssh

from reconciler.config.load import Loaded
from reconciler.core.spec import AgentLogin, Hop, KeyLogin, Login, PasswordLogin, TargetSpec
from reconciler.ssh.connect.credentials import unusable_credentials
from reconciler.ssh.connect.dial import DialFailed, dial
from reconciler.ssh.internals.keys.algorithm_names import supported

_CONCURRENCY = 16


@dataclass(frozen=True, slots=True)
class LoginResult:
    """Result of the login to one target. `reason` is a failure reason (docs/contract.md), "" on success."""

    target: str
    reason: str
    message: str

    @property
    def ok(self) -> bool:
        return not self.reason


class KeyInspector:
    """Finds keys, certificates and algorithms that cannot be used. Implements `config.options.Inspector`.

    The result for each key is cached, because an encrypted key takes up to a second to open.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self._cache: dict[tuple[KeyLogin | AgentLogin, bool], tuple[str, str]] = {}

    def unusable_credential(self, hop: Hop, login: Login) -> tuple[str, str]:
        if isinstance(login, PasswordLogin):
            return "", ""
        key = (login, hop.strict_key_permissions)
        if key not in self._cache:
            message = self._message(hop, login)
            self._cache[key] = (message, self._field(hop, login, message)) if message else ("", "")
        return self._cache[key]

    def algorithms(self, kind: str) -> tuple[str, ...]:
        return supported(kind)

    def _message(self, hop: Hop, login: Login) -> str:
        found = asyncio.run(unusable_credentials(replace(hop, logins=(login,)), self.environ))
        return found[0].message if found else ""

    def _field(self, hop: Hop, login: Login, message: str) -> str:
        """Return the field that causes the message: without it, the message would be different."""
        if isinstance(login, KeyLogin):
            alone = replace(login, certificate=None)
            if login.certificate and self._message(hop, alone) != message:
                return "certificate"
            if login.passphrase and self._message(hop, replace(alone, passphrase=None)) != message:
                return "passphrase"
        return "privateKey"


def log_in_to_all(loaded: Loaded, environ: Mapping[str, str]) -> list[LoginResult]:
    """Log in to all targets, in the order of the files.

    Targets that are off are skipped, except those that are off because of a missing variable or secret.
    """
    return asyncio.run(_all(loaded, environ))


async def _all(loaded: Loaded, environ: Mapping[str, str]) -> list[LoginResult]:
    limit = asyncio.Semaphore(_CONCURRENCY)

    async def one(target: TargetSpec) -> LoginResult:
        if target.name in loaded.broken:
            return LoginResult(target.name, "secret_unreadable", loaded.broken[target.name])
        async with limit:
            return await _log_in(target, environ)

    targets = loaded.desired.targets.values()
    return list(await asyncio.gather(*(one(t) for t in targets if t.off is None or t.name in loaded.broken)))


async def _log_in(target: TargetSpec, environ: Mapping[str, str]) -> LoginResult:
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
        return LoginResult(target.name, failed.failure.reason, failed.failure.message)
    dialled.connection.close()
    await dialled.connection.wait_closed()
    notes = [f"login to {access.hop.hosts[dialled.host]} as {access.hop.user} succeeded ({dialled.seconds:.2f} s)"]
    if not dialled.host_key_verified:
        notes.append("host keys are not checked")
    if dialled.said:
        notes.append(f"the server says {dialled.said}")
    return LoginResult(target.name, "", "; ".join([*notes, *dialled.warnings]))
