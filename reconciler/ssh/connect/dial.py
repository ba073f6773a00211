"""One attempt to connect and log in to a target: its hosts in order of preference, through its jump hosts.

`dial` owns everything until it returns: if it raises or is cancelled, it leaves nothing open. Each hop is a TCP
connection (or a channel of the previous hop, or a proxy command), an SSH handshake and a login under one deadline.
asyncssh gets every option explicitly and reads nothing from ~/.ssh or the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import asyncssh

from reconciler.core.backoff import GUARDED
from reconciler.core.observed import Failure, Reason
from reconciler.core.outbound import Outbound
from reconciler.core.spec import Access, Endpoint, Hop, TargetSettings, TrustMode
from reconciler.ssh.connect import proxy_command
from reconciler.ssh.connect.asyncssh_options import options
from reconciler.ssh.connect.auth_client import AuthClient
from reconciler.ssh.connect.credential_fingerprint import credential_files, fingerprint, fingerprints
from reconciler.ssh.connect.credentials import Credentials, collect
from reconciler.ssh.connect.debug_log import quiet
from reconciler.ssh.connect.host_key_check import HostKeyCheck
from reconciler.ssh.connect.login_limiter import acquire_slot, release_slot
from reconciler.ssh.connect.negotiated import no_common, nothing_common
from reconciler.ssh.errors.connect_errors import from_dial, from_lost
from reconciler.ssh.errors.failure import DialFailed, Stage, most_significant
from reconciler.ssh.errors.forwarding import UNKNOWN_SERVER, ServerFacts
from reconciler.ssh.internals.carrier import JumpChannel, close_with
from reconciler.ssh.internals.packet_guard import Guard
from reconciler.system import tcp

__all__ = ["DialFailed", "Dialled", "credential_files", "dial", "fingerprint", "fingerprints"]


def _ignore(text: str) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Dialled:
    """A logged-in connection. It closes its jump hosts' connections and its proxy command when it ends.

    guard                   limits what it may receive; reports received bytes and key exchanges
    host                    index into access.hop.hosts
    preferred_host_failure  the most significant failure of the hosts before `host`; None if `host` is the first
    hops                    the connections of the jump hosts, outermost first
    seconds                 duration of the dial
    host_key_verified       False if checking is off for any hop
    certificate_expires     end of the certificate that logged in to the target (wall)
    warnings                problems with the files of the credentials
    said                    what the server said after the last credential, "" if nothing
    command                 the proxy command that carries it, None without one
    checks                  the checks of the host keys, outermost first
    server                  what the server said at login
    """

    connection: asyncssh.SSHClientConnection
    guard: Guard
    host: int
    preferred_host_failure: Failure | None
    hops: tuple[asyncssh.SSHClientConnection, ...]
    seconds: float
    host_key_verified: bool
    certificate_expires: float | None
    warnings: tuple[str, ...]
    said: str
    command: proxy_command.ProxyCommand | None
    checks: tuple[HostKeyCheck, ...] = field(repr=False)
    server: ServerFacts

    async def still_trusted(self) -> bool:
        """Return True if the host keys of the connection and its jump hosts would still be accepted."""
        # No short cut after a False: each check remembers its answer, for a time when its files cannot be read.
        return all([await check.still_trusted() for check in self.checks])


async def dial(
    access: Access,
    settings: TargetSettings,
    limit: int,
    *,
    name: str,
    client: Callable[[], asyncssh.SSHClient],
    environ: Mapping[str, str],
    heard: Callable[[str], None] = _ignore,
    deadline: float = math.inf,
) -> Dialled:
    """Connect to the first of `access.hop.hosts[:limit]` where the login succeeds. Raises DialFailed.

    `client` is called once, for the connection that is returned. The object that it returns is told of debug messages
    and of the end of that connection.
    `heard` is called at once with what a server says during its login, because that may be a link to visit.
    `deadline` (of the event loop's clock) ends the dial before its time limits do.
    """
    started = time.monotonic()
    quiet()
    hops = (*access.via, access.hop)
    async with contextlib.AsyncExitStack() as stack:
        credentials = []
        for hop, seconds in zip(hops, settings.connect_timeouts, strict=False):
            credentials.append(await collect(hop, environ, seconds))
            stack.callback(credentials[-1].close)
        hop_chain: list[_Reached] = []
        try:
            for each in credentials:
                way = _way(access, settings, each, hop_chain, name, heard, deadline)
                hop_chain.append(await _reach_any(way, limit))
            top = hop_chain[-1]
            _check_alive(top, str(access.hop.hosts[top.host]))
            top.auth.hand_over(client())
            guard = top.auth.guard
            assert guard is not None  # it was made with the connection
            logged_in_with, said = top.auth.record.latest, top.auth.words.last
            for reached in hop_chain:
                reached.auth.forget()
        except BaseException:
            for reached in reversed(hop_chain):
                reached.connection.abort()
            raise
    return Dialled(
        connection=top.connection,
        guard=guard,
        host=top.host,
        preferred_host_failure=top.preferred_host_failure,
        hops=tuple(reached.connection for reached in hop_chain[:-1]),
        seconds=time.monotonic() - started,
        host_key_verified=all(hop.trust.mode is not TrustMode.OFF for hop in hops),
        certificate_expires=logged_in_with.expires if logged_in_with else None,
        warnings=tuple(warning for each in credentials for warning in each.warnings),
        said=said,
        command=hop_chain[0].command,
        checks=tuple(reached.auth.check for reached in hop_chain),
        server=top.auth.server,
    )


def _check_alive(reached: _Reached, where: str) -> None:
    """Raise DialFailed if the server closed the connection right after the login."""
    if reached.auth.lost:
        raise DialFailed(from_lost(reached.auth.error, where), Stage.LOGIN)


# --- hop by hop -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reached:
    connection: asyncssh.SSHClientConnection
    auth: AuthClient
    command: proxy_command.ProxyCommand | None
    host: int
    preferred_host_failure: Failure | None


@dataclass(frozen=True, slots=True)
class _Way:
    """How to reach one hop: through the hop `below`, by the proxy command `command`, or else by TCP.

    `seconds` is the time limit for each host of the hop, `deadline` that of the dial.
    """

    hop: Hop
    credentials: Credentials
    label: str  # "jump host 2 ", "" for the target itself
    seconds: float
    below: _Reached | None
    command: tuple[str, ...]
    outbound: Outbound
    keepalive: tuple[float, int]
    debug: str
    heard: Callable[[str], None]
    deadline: float

    def where(self, endpoint: Endpoint) -> str:
        return f"{self.label}({endpoint})" if self.label else str(endpoint)


def _way(
    access: Access,
    settings: TargetSettings,
    credentials: Credentials,
    hop_chain: list[_Reached],
    name: str,
    heard: Callable[[str], None],
    deadline: float,
) -> _Way:
    number = len(hop_chain)
    last = number == len(access.via)
    return _Way(
        hop=access.hop if last else access.via[number],
        credentials=credentials,
        label="" if last else f"jump host {number + 1} ",
        seconds=settings.connect_timeouts[number],
        below=hop_chain[-1] if hop_chain else None,
        command=access.proxy_command if not hop_chain else (),
        outbound=access.outbound,
        # If a jump host stops answering, so does what it carries: the keepalive of the target's connection finds both.
        keepalive=(settings.keepalive_interval, settings.keepalive_count_max) if last else (0.0, 1),
        debug=name if settings.log_level == "debug" else "",
        heard=heard,
        deadline=deadline,
    )


async def _reach_any(way: _Way, limit: int) -> _Reached:
    """Reach the first host of the hop where the login succeeds. `limit` is for the target's own hosts."""
    failed: dict[Failure, Stage | None] = {}
    for host, endpoint in enumerate(way.hop.hosts if way.label else way.hop.hosts[:limit]):
        try:
            connection, auth, command = await _reach(way, endpoint)
        except DialFailed as error:
            failed.setdefault(error.failure, error.stage)
        else:
            return _Reached(connection, auth, command, host, most_significant(failed) if failed else None)
    failure = most_significant(failed)
    raise DialFailed(failure, failed[failure])


async def _reach(
    way: _Way, endpoint: Endpoint
) -> tuple[asyncssh.SSHClientConnection, AuthClient, proxy_command.ProxyCommand | None]:
    """Connect and log in to this host."""
    certificates = strict_kex = True
    failed: DialFailed | None = None
    while True:
        auth = await _auth_client(way, endpoint)
        check = auth.check
        certificates = certificates and check.wants_certificate
        try:
            tried = _attempt(way, endpoint, auth, certificates=certificates, strict_kex=strict_kex)
            connection, command = await tried
        except DialFailed as error:
            if certificates and check.foreign_authority_but_known_key:
                certificates = False  # as ssh does: an unknown authority does not invalidate a known key
            elif auth.needs_strict_kex is not None and strict_kex:
                strict_kex, failed = False, error  # the server may offer algorithms that are safe without it
            elif failed is not None and auth.stage is Stage.KEX:
                raise failed from None  # the server offers no such algorithm
            else:
                raise
        else:
            return connection, auth, command


async def _auth_client(way: _Way, endpoint: Endpoint) -> AuthClient:
    check = await HostKeyCheck.prepare(way.hop.trust, endpoint, way.where(endpoint))
    return AuthClient(
        check,
        way.credentials,
        way.below.auth if way.below else None,
        way.debug,
        algorithms=way.hop.algorithms,
        heard=lambda text: way.heard(f"{check.where} says `{text}`"),
    )


async def _attempt(
    way: _Way, endpoint: Endpoint, auth: AuthClient, *, certificates: bool, strict_kex: bool
) -> tuple[asyncssh.SSHClientConnection, proxy_command.ProxyCommand | None]:
    """One connection, one handshake, one login, within the hop's time. Raises DialFailed; leaves nothing open."""
    where = way.where(endpoint)
    command: proxy_command.ProxyCommand | None = None
    sock: socket.socket | None = None
    seconds = way.seconds
    try:
        async with acquire_slot(endpoint) as place:
            seconds = min(seconds, max(0.0, way.deadline - asyncio.get_running_loop().time()))
            async with asyncio.timeout(seconds):
                if way.command:
                    command = await proxy_command.start(way.command, endpoint, way.hop.user, where)
                    sock = command.sock
                elif way.below is None:
                    sock = await tcp.connect(endpoint, way.outbound)
                connection = await asyncssh.connect(
                    endpoint.host,
                    endpoint.port,
                    sock=sock,
                    tunnel=JumpChannel(way.below.connection) if way.below else None,
                    client_factory=lambda: auth,
                    **options(
                        way.hop,
                        way.credentials.methods,
                        auth.check,
                        way.keepalive,
                        certificates=certificates,
                        strict_kex=strict_kex,
                    ),
                )
                await _check_pinned(auth, connection)
                assert auth.guard is not None  # it was made with the connection
                release_slot(place.pop_all(), auth.guard.requests, way.seconds)
    except BaseException as exc:
        if sock is not None and auth.connection is None:  # else the transport owns it and has closed it
            sock.close()
        stage = auth.stage
        failure = await _why(exc, way, where, auth, command, seconds)
        if command is not None:
            command.close()
        if failure is None:
            raise
        raise DialFailed(failure, stage) from exc
    # From here the connection closes what carries it when it ends.
    if way.below is not None:
        close_with(connection, way.below.connection)
    elif command is not None:
        command.logged_in()
        close_with(connection, command)
    return connection, command


async def _check_pinned(auth: AuthClient, connection: asyncssh.SSHClientConnection) -> None:
    """Pin a new host key, if the login has not done so: a server may accept a login without any credential."""
    is_pinned = False
    try:
        is_pinned = await auth.check.pinned()
    finally:
        if not is_pinned:
            connection.abort()
    if not is_pinned:
        raise asyncssh.HostKeyNotVerifiable("the new host key cannot be pinned")


async def _why(
    exc: BaseException,
    way: _Way,
    where: str,
    auth: AuthClient,
    command: proxy_command.ProxyCommand | None,
    seconds: float,
) -> Failure | None:
    """The failure for what an attempt raised, None for a cancellation. `seconds`: the time limit of the attempt."""
    if not isinstance(exc, Exception):
        return None
    if isinstance(exc, DialFailed):
        return exc.failure
    if (found := auth.needs_strict_kex or auth.check.failure) is not None:
        return found
    if isinstance(exc, asyncssh.HostKeyNotVerifiable):
        return auth.check.certificate_refused(exc.reason)
    if command is not None and auth.stage <= Stage.BANNER and not isinstance(exc, TimeoutError):
        failure = await command.failure(where)
        if failure is not None:
            return failure
    jump_host = way.below.auth.server if way.below else UNKNOWN_SERVER
    failure = _explained(exc, way, where, auth) or from_dial(exc, where, auth.stage, seconds, jump_host)
    unusable = way.credentials.unusable
    if failure.reason is Reason.AUTH and unusable is not None:
        # The server has refused a login: the next one must not follow as soon as for a file that cannot be read.
        return unusable if unusable.reason in GUARDED else replace(unusable, reason=Reason.AUTH)
    is_end = isinstance(exc, ConnectionError | asyncssh.ConnectionLost)
    if command is not None and (is_end or auth.stage <= Stage.BANNER):
        failure = command.explain(failure)
    return auth.words.explain(failure)


def _explained(exc: Exception, way: _Way, where: str, auth: AuthClient) -> Failure | None:
    """The failure, if what the server sent explains it."""
    match auth.stage:
        case Stage.BANNER:
            return auth.greeting(where)
        case Stage.KEX if not isinstance(exc, TimeoutError):
            found = nothing_common(auth.connection) if auth.connection is not None else []
            return no_common(found, where, way.hop.algorithms) if found else None
        case Stage.LOGIN if isinstance(exc, asyncssh.PermissionDenied) or auth.record.is_last_try(exc):
            return auth.refusal(where, way.hop.user)
        case _:
            return None
