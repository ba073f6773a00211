"""`tunnels diagnose`: goes a tunnel's whole way step by step, and says which step fails and what to do about it.

In: the tunnel and its target as they are asked for, and the fleet that carries them. Out: `Step`s, in the order of the
way. Each hop is logged in to anew, with the running process's credentials; the destination is dialled through the live
connection, so that what clients meet is what is tried. Listening and probing are not tried but looked up: the process
does them all the time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import asyncssh

from reconciler.core.addresses import is_remote
from reconciler.core.observed import Failure, Now, Phase, Reason, SocketPhase
from reconciler.core.spec import (
    Access,
    Desired,
    FarTcp,
    FarUnix,
    Hop,
    NearTcp,
    NearUnix,
    Socks,
    TargetSpec,
    TrustMode,
    TunnelSpec,
)
from reconciler.core.status import TargetStatus, TunnelStatus, make_status
from reconciler.report.snapshot import iso
from reconciler.ssh.actuator import SshActuator
from reconciler.ssh.clients.destination import dial_local
from reconciler.ssh.connect.dial import DialFailed, dial
from reconciler.ssh.errors.channel_errors import from_channel_open
from reconciler.ssh.errors.failure import Stage
from reconciler.ssh.link.link import Link, LinkClient

# Seconds for all of it. Somebody waits, and has an answer within ten seconds, the start of the command included: the
# step under way is told then, whatever its own timeout (as long as ten seconds for a destination).
WITHIN = 9.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `fix` is what to do where it is not `ok`."""

    step: str
    ok: bool
    detail: str
    fix: str = ""


async def diagnose(
    tunnel: TunnelSpec, target: TargetSpec, actuator: SshActuator, now: Callable[[], Now], environ: Mapping[str, str]
) -> list[Step]:
    """All steps as far as the way can be gone. All are `ok` only if the tunnel is up, or stands by."""
    way = _Way(tunnel, target, actuator, now, environ)
    try:
        async with asyncio.timeout(WITHIN):
            await way.go()
    except TimeoutError:
        way.fail(way.at, Failure(Reason.TIMEOUT, f"{way.where}: no answer yet after {WITHIN:g} s in all"))
    return way.steps


class _Way:
    """From the client's end to the destination. `at` is the step under way, `where` who is to answer it."""

    def __init__(
        self,
        tunnel: TunnelSpec,
        target: TargetSpec,
        actuator: SshActuator,
        now: Callable[[], Now],
        environ: Mapping[str, str],
    ) -> None:
        self.tunnel = tunnel
        self.target = target
        self.actuator = actuator
        self.now = now
        self.environ = environ
        self.at, self.where = "tunnel", tunnel.id
        self.steps: list[Step] = []

    async def go(self) -> None:
        if self._is_off():
            return
        remote = is_remote(self.tunnel.listen)
        if not remote:
            self._listen("listen here")
        server = await self._log_in()
        if server is None:
            return
        try:
            if remote:
                self._listen("listen on the server")
            self.at, self.where = "destination", str(self.tunnel.route)
            reached = await self._reach(self.actuator.usable(self.target.name) or server)
        finally:
            server.abort()
        if reached:
            self._probe()
        if all(step.ok for step in self.steps):
            self._sum_up()

    def _judged(self) -> tuple[TargetStatus, TunnelStatus]:
        judgement = make_status(Desired.of([self.target], [self.tunnel]), self.actuator.observe(), self.now())
        return judgement.targets[0], judgement.tunnels[0]

    def _well(self, step: str, detail: str) -> None:
        self.steps.append(Step(step, ok=True, detail=detail))

    def fail(self, step: str, failure: Failure, *more: str) -> None:
        """`more` are sentences: what becomes of it."""
        needs_you = "This needs you: trying again will not help until something is changed."
        said = [_sentence(failure.what), needs_you if failure.needs_action else "", *more]
        self.steps.append(Step(step, ok=False, detail=" ".join(filter(None, said)), fix=failure.advice))

    def _next(self, due: float | None) -> str:
        if due is None:
            return ""
        seconds = math.ceil(due - self.now().mono)
        if seconds <= 0:
            return "Trying again now."
        return f"Next try in {seconds} s." if seconds < 100 else f"Next try in {math.ceil(seconds / 60)} min."

    # --- this end ----------------------------------------------------------------------------------------------

    def _is_off(self) -> bool:
        _, status = self._judged()
        if status.verdict.phase not in (Phase.OFF, Phase.DRAINING):
            return False
        what = "the tunnel" if self.tunnel.off or not self.target.off else f"its target {self.target.name}"
        said = f"{what} is {status.verdict.message}"
        if self.tunnel.off.startswith("paused"):
            fix = f"`tunnels resume {self.tunnel.id}` turns it on again"
        elif self.tunnel.off or self.target.off:
            fix = f"set `enabled: true` for {what} in its file"
        else:
            said = f"{said} ({iso(self.tunnel.policy.expires_at)})"
            fix = "set a later `expiresAt`, or leave it out"
        self.steps.append(Step("tunnel", ok=False, detail=said, fix=fix))
        return True

    def _listen(self, step: str) -> None:
        """What is known of its listener. Nothing is where it was not tried yet: the sum tells that."""
        observed, (target, status) = self.actuator.observe(), self._judged()
        listen = self.tunnel.listen
        mine = [s for s in observed.sockets.values() if s.owner.id == self.tunnel.id and s.key.listen == listen]
        failed = [tries for key, tries in observed.socket_tries.items() if key.listen == listen]
        if any(socket.phase is SocketPhase.BOUND for socket in mine):
            # What one that is up has to say is about its listener, unless it is its target's.
            is_well = status.verdict.phase is Phase.UP and not target.verdict.is_trouble
            doubt = status.verdict.message if is_well else ""
            self._well(step, f"{status.bound} ({doubt})" if doubt else status.bound)
        elif failed and status.verdict.phase is Phase.STANDBY:
            self._well(step, status.verdict.message)
        elif failed:
            self.fail(step, failed[0].last, self._next(status.verdict.next_try))

    # --- the hops ----------------------------------------------------------------------------------------------

    async def _log_in(self) -> Link | None:
        """A fresh connection to the server, made hop by hop; None if one of them fails."""
        hops = (*self.target.access.via, self.target.access.hop)
        link = None
        for number, hop in enumerate(hops):
            if link is not None:
                link.abort()
            name = f"jump host {number + 1}" if number < len(hops) - 1 else "server"
            self.at, self.where = f"{name}: connect", " or ".join(map(str, hop.hosts))
            try:
                link = await self._connect(replace(self.target.access, via=hops[:number], hop=hop))
            except DialFailed as failed:
                self._stopped(name, hop, failed)
                return None
            self._well(f"{name}: connect", f"{hop.hosts[link.host]} answers")
            self._well(f"{name}: host key", _checked(hop))
            self._well(f"{name}: log in", f"as {hop.user}, {link.dialled.seconds * 1000:.0f} ms in all")
        return link

    async def _connect(self, access: Access) -> Link:
        client, target = LinkClient(), self.target
        dialled = await dial(
            access,
            target.settings,
            len(access.hop.hosts),
            name=target.name,
            client=lambda: client,
            environ=self.environ,
        )
        return Link(0, target.name, dialled, client, target.settings, lost=lambda _: None, heard=lambda: None)

    def _stopped(self, name: str, hop: Hop, failed: DialFailed) -> None:
        """The steps that went well by implication, and the one that did not."""
        if failed.stage is not None and failed.stage > Stage.BANNER:
            self._well(f"{name}: connect", "it answers")
        if failed.stage is Stage.LOGIN:
            self._well(f"{name}: host key", _checked(hop))
        target, _ = self._judged()
        goes_on = "The connection that is up goes on." if self.actuator.usable(self.target.name) else ""
        step = f"{name}: {_step(failed.stage, failed.failure.reason)}"
        self.fail(step, failed.failure, goes_on, self._next(target.verdict.next_try))

    # --- the far end -------------------------------------------------------------------------------------------

    async def _reach(self, link: Link) -> bool:
        """Whether the destination answers."""
        where = str(self.tunnel.route)
        try:
            match self.tunnel.route:
                case FarTcp() | FarUnix() as to:
                    _, writer = await link.open_stream(to)
                    writer.channel.abort()
                case NearTcp() | NearUnix() as to:
                    near = await dial_local(to, link.dial_timeout)
                    near.transport.abort()
                case Socks():
                    self._well("destination", "each client names its own: nothing to try")
                    return True
        except (asyncssh.ChannelOpenError, asyncssh.Error, OSError) as error:
            self.fail("destination", from_channel_open(error, where))
            return False
        self._well("destination", f"{where} answers")
        return True

    def _probe(self) -> None:
        """What the last one was answered."""
        health, heard = self.tunnel.policy.health, self.actuator.observe().probes.get(self.tunnel.id)
        if health is None or heard is None:
            return
        if heard.failure is None:
            self._well("probe", f"the {health.type} probe is answered well")
        else:
            often = f"{heard.failures} times in a row." if heard.failures > 1 else ""
            self.fail("probe", heard.failure, often, f"Asked again every {health.interval:g} s.")

    def _sum_up(self) -> None:
        """Every step goes well now. That need not mean that the tunnel is up."""
        _, status = self._judged()
        verdict = status.verdict
        if verdict.phase is Phase.STANDBY:
            self._well("tunnel", verdict.message)
        elif verdict.phase is not Phase.UP:
            reason = f" ({verdict.reason})" if verdict.reason is not None else ""
            said = f"{verdict.phase}{reason}: {verdict.message}" if verdict.message else f"{verdict.phase}"
            detail = f"{_sentence(said)} {self._next(verdict.next_try)}".rstrip()
            self.steps.append(Step("tunnel", ok=False, detail=detail, fix=self._way_up(verdict.phase, verdict.reason)))

    def _way_up(self, phase: Phase, reason: Reason | None) -> str:
        if reason is Reason.SECRET_UNREADABLE and phase is Phase.UNHEALTHY:  # of a user of a SOCKS tunnel
            return Failure(reason, "").advice
        if phase is Phase.UNHEALTHY:
            return "the way is clear now: the next client that gets through makes it up again"
        if phase is Phase.DOWN:
            return f"the way is clear now: `tunnels restart {self.tunnel.id}` tries at once"
        return f"wait a moment: `tunnels wait {self.tunnel.id}` returns when it is up"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def _checked(hop: Hop) -> str:
    return "checked" if hop.trust.mode is not TrustMode.OFF else "NOT checked (strictHostKeyChecking: false)"


def _step(stage: Stage | None, reason: Reason) -> str:
    """What a hop's dial was at when it failed."""
    match stage, reason:
        case None | Stage.KEX, Reason.HOST_KEY:
            return "host key"
        case None, _:
            return "credentials"
        case Stage.CONNECT, Reason.PROTOCOL:  # one of ours that nobody knows
            return "algorithms"
        case Stage.KEX, _:
            return "key exchange"
        case Stage.LOGIN, _:
            return "log in"
        case _:
            return "connect"
