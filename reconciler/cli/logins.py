"""What `check` knows of logins beyond the file: keys that cannot be used; and, with --connect, whether we get in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import asyncssh

from reconciler.config.load import Loaded
from reconciler.core.spec import TargetSpec
from reconciler.ssh.algorithms import unknown
from reconciler.ssh.dial import DialFailed, dial
from reconciler.ssh.logins import misfits

_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Login:
    """What came of one target. `message` is a sentence; `reason` is from the closed set, "" where it let us in."""

    target: str
    reason: str
    message: str

    @property
    def ok(self) -> bool:
        return not self.reason


def misfits_of_all(loaded: Loaded, environ: Mapping[str, str]) -> list[str]:
    """Sentences about what no server will ever be asked with: unusable keys, algorithms that are not known here."""
    said: dict[str, None] = {}
    for target in loaded.desired.targets.values():
        if target.off:
            continue
        for hop in (*target.access.via, target.access.hop):
            wrong = [failure.message for failure in misfits(hop, environ)]
            if names := unknown(hop.algorithms):
                wrong.append(f"not known here: {', '.join(names)}; see `algorithms`")
            said |= dict.fromkeys(f"target {target.name}: {one}" for one in wrong)
    return list(said)


def log_in_to_all(loaded: Loaded, environ: Mapping[str, str]) -> list[Login]:
    """In the order of the files; targets that are off are passed over, unless it is a gap that keeps them off."""
    return asyncio.run(_all(loaded, environ))


async def _all(loaded: Loaded, environ: Mapping[str, str]) -> list[Login]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(target: TargetSpec) -> Login:
        if target.name in loaded.broken:
            return Login(target.name, "secret_unreadable", loaded.broken[target.name])
        async with gate:
            return await _log_in(target, environ)

    targets = [target for target in loaded.desired.targets.values() if not target.off or target.name in loaded.broken]
    return list(await asyncio.gather(*map(one, targets)))


async def _log_in(target: TargetSpec, environ: Mapping[str, str]) -> Login:
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
        return Login(target.name, failed.failure.reason, failed.failure.message)
    dialled.connection.close()
    await dialled.connection.wait_closed()
    said = [f"{access.hop.hosts[dialled.host]} lets {access.hop.user} in ({dialled.seconds:.2f} s)"]
    if not dialled.host_key_verified:
        said.append("host keys are not checked")
    return Login(target.name, "", "; ".join([*said, *dialled.warnings]))
