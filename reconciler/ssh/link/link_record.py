"""The record of one link, and checks of the files that links and targets depend on.

Input: the records of links and targets. Output: the trust in each link, and the fingerprint of each target's files. A
changed credential is a reason to try again. Changed known hosts may end or restore the trust in a live link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from reconciler.core.observed import LinkState
from reconciler.ssh.connect.dial import fingerprints
from reconciler.ssh.link.link import Link
from reconciler.ssh.records import TargetRecord


@dataclass(slots=True, eq=False)
class LinkRecord:
    """The record of one link.

    fingerprint   of the files that its access names, when it was dialled or last checked for trust
    task          dials it
    link          the connection, None until it is dialled
    """

    state: LinkState
    target: TargetRecord
    fingerprint: str = ""
    task: asyncio.Task[None] | None = None
    link: Link | None = None

    async def check_trust(self, fingerprint: str) -> bool:
        """Check the trust in the link by files with this fingerprint. Returns True if the result changed."""
        if self.link is None or fingerprint == self.fingerprint:
            return False
        self.fingerprint = fingerprint
        trusted = await self.link.is_trusted()
        before, self.state = self.state, replace(self.state, trusted=trusted)
        return trusted is not before.trusted


async def check_trust(links: Collection[LinkRecord], environ: Mapping[str, str]) -> None:
    """Check the trust in live links by the present files."""
    now = await fingerprints({record.state.access for record in links}, environ)
    await asyncio.gather(*(record.check_trust(now[record.state.access]) for record in links))


async def check_files(
    targets: Collection[TargetRecord], links: Collection[LinkRecord], environ: Mapping[str, str]
) -> bool:
    """Check the files that targets with failed tries and live links depend on. Returns True if something changed."""
    links = [record for record in links if record.link is not None]
    failed = {target.tries.access for target in targets if target.tries is not None}
    accesses = {access for access in failed if access is not None} | {record.state.access for record in links}
    now = await fingerprints(accesses, environ)
    changed = False
    for target in targets:
        if target.tries is not None and target.tries.access in now:
            before, target.fingerprint = target.fingerprint, now[target.tries.access]
            changed |= before != target.fingerprint
    trust_changes = await asyncio.gather(*(record.check_trust(now[record.state.access]) for record in links))
    return changed or any(trust_changes)
