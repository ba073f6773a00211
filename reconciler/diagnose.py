"""`tunnels diagnose`: goes a tunnel's whole way step by step, and says which step fails and what to do about it.

In: the tunnel and its target as they are asked for, the live connection if there is one. Out: `Step`s, in the order of
the way. Each hop is logged in to anew, with the running process's credentials; the destination is dialled through the
live connection, so that what clients meet is what is tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

import asyncssh

from reconciler.core.spec import Access, FarTcp, FarUnix, NearTcp, NearUnix, Socks, TargetSpec, TunnelSpec
from reconciler.core.status import Failure, Reason
from reconciler.ssh.dial import DialFailed, dial
from reconciler.ssh.failures import from_channel_open
from reconciler.ssh.kinds import dial_near
from reconciler.ssh.link import Link, LinkClient

WITHIN = 10.0  # seconds for all of it

_LOGIN = (Reason.AUTH, Reason.CERTIFICATE_EXPIRED)
_FIX = {
    Reason.DNS: "correct the name, or the resolver of the machine that looks it up",
    Reason.REFUSED: "start the SSH server there, or correct host and port",
    Reason.UNREACHABLE: "check routes, VPN and firewalls on the way",
    Reason.TIMEOUT: "check the firewalls on the way: somebody drops packets without a word",
    Reason.SERVER_BUSY: "the server takes no more logins at the moment: see MaxStartups and PerSourcePenalties there",
    Reason.HOST_KEY: "compare the key with the server's; `tunnels trust` prints the line to add",
    Reason.AUTH: "correct user or key here, or authorized_keys on the server",
    Reason.CERTIFICATE_EXPIRED: "have a new certificate signed",
    Reason.SECRET_UNREADABLE: "make the file readable or set the variable; it is tried again at once",
    Reason.PROTOCOL: "compare `algorithms` with what the server offers",
    Reason.CLOSED_BY_SERVER: "see the server's log: it ended the connection",
    Reason.FORBIDDEN_BY_SERVER: "allow it on the server: AllowTcpForwarding, PermitOpen, PermitListen",
    Reason.DESTINATION: "start the destination, or correct its address",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `fix` is what to do where it is not `ok`."""

    step: str
    ok: bool
    detail: str
    fix: str = ""


async def diagnose(tunnel: TunnelSpec, target: TargetSpec, link: Link | None, environ: Mapping[str, str]) -> list[Step]:
    """All steps up to the first that fails. Takes at most `WITHIN` seconds."""
    steps: list[Step] = []
    try:
        async with asyncio.timeout(WITHIN):
            await _go(tunnel, target, link, environ, steps)
    except TimeoutError:
        steps.append(Step("time", False, f"not done within {WITHIN:g} s", _FIX[Reason.TIMEOUT]))
    return steps


async def _go(
    tunnel: TunnelSpec, target: TargetSpec, live: Link | None, environ: Mapping[str, str], steps: list[Step]
) -> None:
    hops = (*target.access.via, target.access.hop)
    for number in range(len(hops)):
        access = replace(target.access, via=hops[:number], hop=hops[number])
        name = f"jump host {number + 1}" if number < len(hops) - 1 else "server"
        try:
            fresh = await _connect(access, target, environ)
        except DialFailed as failed:
            steps += _failed_at(name, failed.failure)
            return
        try:
            host = access.hop.hosts[fresh.host]
            took = f"{fresh.dialled.seconds * 1000:.0f} ms"
            checked = "checked" if fresh.dialled.host_key_verified else "NOT checked (strictHostKeyChecking: false)"
            steps.append(Step(f"{name}: connect", True, f"{host} answers"))
            steps.append(Step(f"{name}: host key", True, checked))
            steps.append(Step(f"{name}: log in", True, f"as {access.hop.user}, {took} in all"))
            if number == len(hops) - 1:
                steps.append(await _destination(tunnel, live or fresh))
        finally:
            fresh.abort()


async def _connect(access: Access, target: TargetSpec, environ: Mapping[str, str]) -> Link:
    client = LinkClient()
    dialled = await dial(
        access, target.settings, len(access.hop.hosts), name=target.name, client=lambda: client, environ=environ
    )
    return Link(0, target.name, dialled, client, target.settings, lost=lambda _: None, heard=lambda: None)


def _failed_at(name: str, failure: Failure) -> list[Step]:
    """The steps that went well by implication, and the one that did not."""
    fix = _FIX.get(failure.reason, "")
    reached = Step(f"{name}: connect", True, "it answers")
    match failure.reason:
        case Reason.SECRET_UNREADABLE:
            return [Step(f"{name}: credentials", False, failure.message, fix)]
        case Reason.HOST_KEY:
            return [reached, Step(f"{name}: host key", False, failure.message, fix)]
        case Reason.PROTOCOL:
            return [reached, Step(f"{name}: agree on algorithms", False, failure.message, fix)]
        case reason if reason in _LOGIN:
            known = Step(f"{name}: host key", True, "as expected")
            return [reached, known, Step(f"{name}: log in", False, failure.message, fix)]
        case _:
            return [Step(f"{name}: connect", False, failure.message, fix)]


async def _destination(tunnel: TunnelSpec, link: Link) -> Step:
    where = str(tunnel.route)
    try:
        match tunnel.route:
            case FarTcp() | FarUnix() as to:
                _, writer = await link.open_stream(to)
                writer.channel.abort()
            case NearTcp() | NearUnix() as to:
                near = await dial_near(to, link.dial_timeout)
                near.transport.abort()
            case Socks():
                return Step("destination", True, "each client names its own: nothing to try")
    except (asyncssh.ChannelOpenError, asyncssh.Error, OSError) as error:
        failure = from_channel_open(error, where)
        return Step("destination", False, failure.message, _FIX.get(failure.reason, ""))
    return Step("destination", True, f"{where} answers")
