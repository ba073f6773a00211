"""`tunnels diagnose`: tests each step from the client to the destination, and reports which fails and what to do.

Input: the tunnel as desired, and the engine. Output: `Step`s, in the order of the path. Each hop gets a new login with
the credentials of the running process. The destination is dialled through the live connection, as for clients. For
listeners and probes the present result is reported instead of a new test: the process runs them all the time.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, replace

import asyncssh

from reconciler.core.addresses import is_loopback, is_remote
from reconciler.core.backoff import NextTry
from reconciler.core.observed import Failure, Phase, Reason, SocketPhase
from reconciler.core.off import OffCause
from reconciler.core.spec import (
    Access,
    Desired,
    FarTcp,
    FarUnix,
    Hop,
    NearTcp,
    NearUnix,
    RemoteTcp,
    Socks,
    TrustMode,
    TunnelSpec,
)
from reconciler.core.status import NEEDS_ACTION_TEXT, TargetStatus, TunnelStatus, make_status
from reconciler.core.text.forms import phase_text
from reconciler.report.snapshot import iso
from reconciler.runtime.engine import Engine
from reconciler.ssh.clients.destination import dial_local
from reconciler.ssh.connect.dial import DialFailed, dial
from reconciler.ssh.errors.channel_errors import from_channel_open
from reconciler.ssh.errors.failure import Stage
from reconciler.ssh.link.link import Link, LinkClient
from reconciler.ssh.link.server_interfaces import Interfaces, interfaces

# Seconds for all steps. The command answers within ten seconds, its start included; then the step under way is
# reported as failed, whatever its own timeout (up to ten seconds for a destination).
WITHIN = 9.0
DIALS_WITHIN = 0.95  # the part of it for the logins: then a dial says which of its own steps was not finished


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one step. `fix` is what to do if it is not `ok`."""

    step: str
    ok: bool
    detail: str
    fix: str = ""


async def diagnose(tunnel: TunnelSpec, engine: Engine) -> list[Step]:
    """Return the steps up to the first that fails. All are `ok` only if the tunnel is up or in standby."""
    path = _Path(tunnel, engine)
    try:
        async with asyncio.timeout_at(path.deadline):
            await path.test()
    except TimeoutError:
        path.fail(path.at, Failure(Reason.TIMEOUT, f"{path.where} did not answer within {WITHIN:g} s in all"))
    return path.steps


class _Path:
    """The path of one tunnel. `at` is the step under way, `where` the address that must answer it."""

    def __init__(self, tunnel: TunnelSpec, engine: Engine) -> None:
        self.tunnel = tunnel
        self.target = engine.desired.targets[tunnel.target]
        self.engine = engine
        self.actuator = engine.actuator
        self.now = engine.loop.now
        started = asyncio.get_running_loop().time()
        self.deadline, self.dial_deadline = started + WITHIN, started + WITHIN * DIALS_WITHIN
        self.at, self.where = "tunnel", tunnel.id
        self.steps: list[Step] = []

    async def test(self) -> None:
        if self._is_off():
            return
        remote = is_remote(self.tunnel.listen)
        if not remote:
            self._listen("listen on this machine")
        server = await self._log_in()
        if server is None:
            return
        try:
            if remote:
                self._listen("listen on the server")
                await self._interfaces(server)
            self.at, self.where = "destination", str(self.tunnel.route)
            reached = await self._reach(self.actuator.usable(self.target.name) or server)
        finally:
            server.abort()
        if reached:
            self._probe()
        if all(step.ok for step in self.steps):
            self._sum_up()

    def _status(self) -> tuple[TargetStatus, TunnelStatus]:
        status = make_status(Desired.of([self.target], [self.tunnel]), self.actuator.observe(), self.now())
        return status.targets[0], status.tunnels[0]

    def _ok(self, step: str, detail: str) -> None:
        self.steps.append(Step(step, ok=True, detail=detail))

    def fail(self, step: str, failure: Failure, *more: str) -> None:
        """Add a failed step. `more` are sentences on what happens next."""
        sentences = [_sentence(failure.what), NEEDS_ACTION_TEXT if failure.needs_action else "", *more]
        self.steps.append(Step(step, ok=False, detail=" ".join(filter(None, sentences)), fix=failure.advice))

    def _next(self, due: NextTry | None) -> str:
        if due is None:
            return ""
        seconds = math.ceil(due.at - self.now().mono)
        if seconds <= 0:
            return "Trying again now."
        return f"Next try in {seconds} s." if seconds < 100 else f"Next try in {math.ceil(seconds / 60)} min."

    # --- listener ----------------------------------------------------------------------------------------------

    def _is_off(self) -> bool:
        _, status = self._status()
        off = status.verdict.off
        if off is None:
            return False
        what = f"its target {self.target.name}" if self.tunnel.off is None and self.target.off else "the tunnel"
        detail = f"{what} is {status.verdict.message}"
        match off.cause:
            case OffCause.PAUSED:
                fix = f"run `tunnels resume {self.tunnel.id}`"
            case OffCause.EXPIRED:
                detail = f"{detail} ({iso(self.tunnel.policy.expires_at)})"
                fix = "set a later `expiresAt`, or remove it"
            case _:
                fix = f"set `enabled: true` for {what} in its file"
        self.steps.append(Step("tunnel", ok=False, detail=detail, fix=fix))
        return True

    def _listen(self, step: str) -> None:
        """Add the state of the listener. Nothing is added if it was not opened yet: `_sum_up` reports that."""
        observed, (target, status) = self.actuator.observe(), self._status()
        listen = self.tunnel.listen
        mine = [s for s in observed.sockets.values() if s.owner.id == self.tunnel.id and s.key.listen == listen]
        failed = [tries for key, tries in observed.socket_tries.items() if key.listen == listen]
        if any(socket.phase is SocketPhase.BOUND for socket in mine):
            # The message of a tunnel that is up is about its listener, unless its target has trouble.
            is_listener = status.verdict.phase is Phase.UP and not target.verdict.is_trouble
            remark = status.verdict.message if is_listener else ""
            self._ok(step, f"{status.bound} ({remark})" if remark else status.bound)
        elif failed and status.verdict.phase is Phase.STANDBY:
            self._ok(step, status.verdict.message)
        elif failed:
            self.fail(step, failed[0].last, self._next(status.verdict.next_try))

    async def _interfaces(self, server: Link) -> None:
        """Add where the server listens, if it is asked to listen beyond loopback and this can be found out."""
        listen = self.tunnel.listen
        if not isinstance(listen, RemoteTcp) or is_loopback(listen.host):
            return
        self.at, self.where = "interfaces", self.target.name
        try:
            found = await interfaces(server)
        except (OSError, asyncssh.Error):
            return  # the next step shows the cause
        match found:
            case Interfaces.LOOPBACK:
                what = f"the server listens on its loopback only, not on {listen.host}"
                fix = "set `GatewayPorts clientspecified` in its sshd_config"
                if server.dialled.server.is_dropbear:
                    fix = "start Dropbear with -a"
                self.fail("interfaces", Failure(Reason.BIND, what, f"{fix}, or set `remoteHost: 127.0.0.1`"))
            case Interfaces.REQUESTED:
                self._ok("interfaces", f"the server listens on {listen.host}")
            case Interfaces.ALL:
                self._ok("interfaces", "the server listens on all interfaces")
            case None:
                pass

    # --- the hops ----------------------------------------------------------------------------------------------

    async def _log_in(self) -> Link | None:
        """Return a new connection to the server, made hop by hop; None if a hop fails."""
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
            source = self.target.access.outbound.bind_address if number == 0 else ""
            self._ok(f"{name}: connect", f"{hop.hosts[link.host]} answers{f', from {source}' if source else ''}")
            self._ok(f"{name}: host key", _checked(hop))
            said = f"; the server says {link.dialled.said}" if link.dialled.said else ""
            self._ok(f"{name}: log in", f"as {hop.user}, {link.dialled.seconds * 1000:.0f} ms in all{said}")
        lost = self.actuator.observe().repeated_losses.get(self.target.name)
        if lost is not None:
            self._ok("server: connection", lost.message)
        return link

    async def _connect(self, access: Access) -> Link:
        client, target = LinkClient(), self.target
        dialled = await dial(
            access,
            target.settings,
            len(access.hop.hosts),
            name=target.name,
            client=lambda: client,
            environ=self.engine.environ,
            deadline=self.dial_deadline,
        )
        return Link(0, target.name, dialled, client, target.settings, lost=lambda _: None, recovered=lambda: None)

    def _stopped(self, name: str, hop: Hop, failed: DialFailed) -> None:
        """Add the steps that the failure implies as passed, and the one that failed."""
        if failed.stage is not None and failed.stage > Stage.BANNER:
            self._ok(f"{name}: connect", "the server answers")
        if failed.stage is Stage.LOGIN:
            self._ok(f"{name}: host key", _checked(hop))
        target, _ = self._status()
        in_service = "The live connection stays in service." if self.actuator.usable(self.target.name) else ""
        step = f"{name}: {_step(failed.stage, failed.failure.reason)}"
        limit = self._own_limit() if failed.failure.reason is Reason.TIMEOUT else ""
        self.fail(step, failed.failure, limit, in_service, self._next(target.verdict.next_try))

    def _own_limit(self) -> str:
        """Return a sentence if the limit of this test ended a dial, "" if it was `connectTimeout`."""
        if asyncio.get_running_loop().time() < self.dial_deadline:
            return ""
        seconds = self.target.settings.connect_timeouts[-1]
        return f"This test waits no longer; `connectTimeout` is {seconds:g} s."

    # --- destination -------------------------------------------------------------------------------------------

    async def _reach(self, link: Link) -> bool:
        """Return True if the destination answers."""
        where = str(self.tunnel.route)
        try:
            match self.tunnel.route:
                case FarTcp() | FarUnix() as to:
                    (await link.open_stream(to)).close()
                case NearTcp() | NearUnix() as to:
                    (await dial_local(to, link.dial_timeout)).close()
                case Socks():
                    self._ok("destination", "each client names its own, so there is nothing to test")
                    return True
        except (asyncssh.ChannelOpenError, asyncssh.Error, OSError) as error:
            self.fail("destination", from_channel_open(error, where, link.dialled.server))
            return False
        self._ok("destination", f"{where} answers")
        return True

    def _probe(self) -> None:
        """Add the result of the last probe."""
        health, result = self.tunnel.policy.health, self.actuator.observe().probes.get(self.tunnel.id)
        if health is None or result is None:
            return
        if result.failure is None:
            self._ok("probe", f"the {health.type} probe succeeds")
        else:
            often = f"{result.failures} times in a row." if result.failures > 1 else ""
            self.fail("probe", result.failure, often, f"Probed every {health.interval:g} s.")

    def _sum_up(self) -> None:
        """Add the state of the tunnel, which may not be up although every step succeeds now."""
        _, status = self._status()
        verdict = status.verdict
        if verdict.phase is Phase.STANDBY:
            self._ok("tunnel", verdict.message)
        elif verdict.phase is not Phase.UP:
            state = _sentence(phase_text(verdict.phase, verdict.reason, verdict.message))
            detail = f"{state} {self._next(verdict.next_try)}".rstrip()
            self.steps.append(Step("tunnel", ok=False, detail=detail, fix=self._fix_for(verdict.phase, verdict.reason)))

    def _fix_for(self, phase: Phase, reason: Reason | None) -> str:
        if reason is Reason.SECRET_UNREADABLE and phase is Phase.UNHEALTHY:  # the password of a SOCKS user
            return Failure(reason, "").advice
        if phase is Phase.UNHEALTHY:
            return "every step succeeds now: the tunnel is up again after the next client connects"
        if phase is Phase.DOWN:
            return f"every step succeeds now: run `tunnels restart {self.tunnel.id}` to try at once"
        return f"wait a moment: `tunnels wait {self.tunnel.id}` returns when it is up"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def _checked(hop: Hop) -> str:
    return "checked" if hop.trust.mode is not TrustMode.OFF else "NOT checked (strictHostKeyChecking: false)"


def _step(stage: Stage | None, reason: Reason) -> str:
    """Return the name of the step at which the dial of a hop failed."""
    match stage, reason:
        case None | Stage.KEX, Reason.HOST_KEY:
            return "host key"
        case None, _:
            return "credentials"
        case Stage.CONNECT, Reason.PROTOCOL:  # `algorithms` names one that is not supported
            return "algorithms"
        case Stage.KEX, _:
            return "key exchange"
        case Stage.LOGIN, _:
            return "log in"
        case _:
            return "connect"
