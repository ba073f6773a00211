"""Appends a fetched key to the known_hosts file of its target, as `strictHostKeyChecking: accept-new` does."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import asyncssh

from reconciler.cli.host_keys import FetchedKey
from reconciler.cli.pinning.places import CannotPinError
from reconciler.core.spec import Trust, TrustMode
from reconciler.ssh.connect.host_key_check import HostKeyCheck
from reconciler.ssh.errors.failure import DialFailed


def append_to_known_hosts(fetched: FetchedKey) -> str:
    """Append the key, and return the path of the file. Raises CannotPinError."""
    trust = fetched.server.hop.trust
    if trust.host_keys or not trust.known_hosts:
        raise CannotPinError("`hostKeys` is set, so known_hosts files are not used: use --write FILE")
    try:
        asyncio.run(_append(fetched, replace(trust, mode=TrustMode.ACCEPT_NEW)))
    except DialFailed as failed:
        raise CannotPinError(failed.failure.message) from failed
    return trust.known_hosts[0]


async def _append(fetched: FetchedKey, trust: Trust) -> None:
    endpoint = fetched.server.endpoint
    check = await HostKeyCheck.prepare(trust, endpoint, str(endpoint))
    if check.accepts(asyncssh.import_public_key(fetched.line)):
        await check.pinned()
    if check.failure is not None:
        raise DialFailed(check.failure)
