"""Formats `Desired` as a complete configuration, with defaults filled in and jump hosts written out.

`check --output json` prints it. A secret is given by its source; a literal one is shown as `***`. The output loads to
the same `Desired` in the same environment and directory, unless it holds a literal secret or a target needs a variable
that is not set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import assert_never

from reconciler.config.build.policy import beyond_loopback
from reconciler.config.problem import WarningCode
from reconciler.config.schema.values import shown_duration, shown_rate
from reconciler.core.outbound import ANY_ADDRESS, Outbound
from reconciler.core.rules import metadata
from reconciler.core.secret import FromEnv, FromFile, Inline, Source
from reconciler.core.spec import (
    Access,
    AgentLogin,
    Desired,
    Endpoint,
    FarTcp,
    FarUnix,
    Health,
    Hop,
    KeyLogin,
    Listen,
    LocalTcp,
    LocalUnix,
    Login,
    NearTcp,
    NearUnix,
    PasswordLogin,
    Policy,
    RemoteTcp,
    RemoteUnix,
    Route,
    Socks,
    TargetSpec,
    Trust,
    TrustMode,
    TunnelSpec,
)

Json = dict[str, object]


def to_json(desired: Desired) -> Json:
    """Return the configuration as JSON in the format of tunnels.yaml."""
    tunnels: dict[str, list[Json]] = {name: [] for name in desired.targets}
    for tunnel in desired.tunnels.values():
        tunnels.setdefault(tunnel.target, []).append(tunnel_fields(tunnel))
    targets = {
        name: _escaped(_target(target, desired.targets.values())) | {"tunnels": tunnels[name]}
        for name, target in desired.targets.items()
    }
    return {"version": 1, "targets": targets}


def target_fields(target: TargetSpec) -> Json:
    """Return the fields of a target, without its tunnels."""
    return _escaped(_target(target, [target]))


def tunnel_fields(tunnel: TunnelSpec) -> Json:
    return _escaped(_tunnel(tunnel))


def _escaped(fields: Json) -> Json:
    return {key: _dollars_doubled(value) for key, value in fields.items()}


class _Reference(str):
    """A reference `${NAME}`. In all other text a dollar sign is escaped."""

    __slots__ = ()


def _dollars_doubled(value: object) -> object:
    match value:
        case _Reference():
            return str(value)
        case str():
            return value.replace("$", "$$")
        case list():
            return [_dollars_doubled(one) for one in value]
        case dict():
            return {key: _dollars_doubled(one) for key, one in value.items()}
        case _:
            return value


def _target(target: TargetSpec, others: Iterable[TargetSpec]) -> Json:
    settings, access = target.settings, target.access
    own = ANY_ADDRESS if access.via else access.outbound
    made: Json = {"type": "ssh", **_hop(access.hop, settings.connect_timeouts[-1], own)}
    if access.via:
        made["jumpHosts"] = _jumps(target, others)
    elif access.proxy_command:
        made["proxyCommand"] = list(access.proxy_command)
    if target.on_demand is None:
        made["connect"] = "always"
    else:
        made |= {"connect": "onDemand", "idleTimeout": shown_duration(target.on_demand)}
    reconnect = settings.reconnect
    return made | {
        "dialTimeout": shown_duration(settings.dial_timeout),
        "keepaliveInterval": shown_duration(settings.keepalive_interval),
        "keepaliveCountMax": settings.keepalive_count_max,
        "sshConnections": target.connections,
        "reconnect": {
            "initial": shown_duration(reconnect.initial),
            "max": shown_duration(reconnect.max),
            "factor": reconnect.factor,
        },
        "handoverTimeout": shown_duration(settings.handover_timeout),
        "logLevel": settings.log_level,
        "enabled": target.off is None,
    }


def _jumps(target: TargetSpec, others: Iterable[TargetSpec]) -> list[object]:
    """Return the jump hosts, outermost first.

    A jump host with a `proxyCommand` is given by the name of its target, because an inline one cannot have a
    `proxyCommand`.
    """
    access, timeouts = target.access, target.settings.connect_timeouts
    starts = (access.outbound, *[ANY_ADDRESS] * (len(access.via) - 1))
    jumps: list[object] = [_hop(*jump) for jump in zip(access.via, timeouts[:-1], starts, strict=True)]
    if access.proxy_command:
        first = Access(access.via[0], (), access.proxy_command, access.outbound)
        named = (
            other.name
            for other in others
            if replace(other.access, generation=0) == first and other.settings.connect_timeouts[-1] == timeouts[0]
        )
        jumps[0] = next(named, jumps[0])
    return jumps


def _hop(hop: Hop, connect_timeout: float, outbound: Outbound) -> Json:
    algorithms = {
        "cipher": hop.algorithms.cipher,
        "kex": hop.algorithms.kex,
        "mac": hop.algorithms.mac,
        "hostKey": hop.algorithms.host_key,
    }
    return {
        **_hosts(hop.hosts),
        "user": hop.user,
        **_logins(hop.logins),
        **_trust(hop.trust),
        "addressFamily": outbound.family.value,
        **({"bindAddress": outbound.bind_address} if outbound.bind_address else {}),
        "connectTimeout": shown_duration(connect_timeout),
        "compress": hop.compress,
        "algorithms": {name: list(offered) for name, offered in algorithms.items() if offered},
        "strictKeyPermissions": hop.strict_key_permissions,
    }


def _hosts(hosts: tuple[Endpoint, ...]) -> Json:
    if len(hosts) == 1:
        return {"host": hosts[0].host, "port": hosts[0].port}
    return {"hosts": [str(host) for host in hosts]}


def _logins(logins: tuple[Login, ...]) -> Json:
    """Return the credential fields, in the order in which they are tried."""
    made: Json = {}
    keys: list[object] = []
    for login in logins:
        match login:
            case KeyLogin(key, passphrase, certificate):
                made["privateKey"] = keys
                keys.append(_source(key))
                for name, source in (("passphrase", passphrase), ("certificate", certificate)):
                    if source is not None:
                        made[name] = _source(source)
            case AgentLogin(socket, only):
                if only:
                    made["privateKey"] = keys
                    keys.append({"file": only})
                if not only or socket:
                    made["agent"] = socket or True
            case PasswordLogin(password):
                made["password"] = _source(password)
            case _:
                assert_never(login)
    return made


def _source(source: Source) -> object:
    match source:
        case FromFile(path, variable):
            return _Reference(f"${{{variable}}}") if variable else {"file": path}
        case FromEnv(name):
            return {"env": name}
        case Inline():
            return "***"
        case _:
            assert_never(source)


def _trust(trust: Trust) -> Json:
    strictness: dict[TrustMode, object] = {
        TrustMode.STRICT: True,
        TrustMode.ACCEPT_NEW: "accept-new",
        TrustMode.OFF: False,
    }
    made: Json = {"strictHostKeyChecking": strictness[trust.mode]}
    if trust.known_hosts or not trust.host_keys or trust.mode is TrustMode.ACCEPT_NEW:  # an omitted field has a default
        made["knownHosts"] = list(trust.known_hosts)
    if trust.host_keys:
        made["hostKeys"] = list(trust.host_keys)
    return made | ({"hostKeyAlias": trust.alias} if trust.alias else {})


def _tunnel(tunnel: TunnelSpec) -> Json:
    return {
        "name": tunnel.name,
        "type": tunnel.kind,
        **_listen(tunnel.listen),
        **_route(tunnel.route),
        **_policy(tunnel.policy, tunnel.kind),
        "enabled": tunnel.off is None,
        **_waivers(tunnel),
    }


def _waivers(tunnel: TunnelSpec) -> Json:
    """Return the `x-allow` that the tunnel needs to be valid."""
    codes = list[str]()
    policy, route = tunnel.policy, tunnel.route
    if isinstance(route, Socks) and beyond_loopback(tunnel.listen) and not (policy.allow or policy.users):
        codes.append(WarningCode.OPEN_PROXY)
    if isinstance(route, FarTcp | NearTcp) and metadata.kind_of_text(route.host):
        codes.append(WarningCode.METADATA_DESTINATION)
    return {"x-allow": codes} if codes else {}


def _listen(listen: Listen) -> Json:
    match listen:
        case LocalTcp(host, first, last):
            return {"localHost": host, "localPort": first if first == last else f"{first}-{last}"}
        case LocalUnix(path, mode, group):
            return {"localSocket": path, "mode": f"{mode:04o}", **({"group": group} if group else {})}
        case RemoteTcp(_, host, port):
            return {"remoteHost": host, "remotePort": port}
        case RemoteUnix(_, path):
            return {"remoteSocket": path}
        case _:
            assert_never(listen)


def _route(route: Route) -> Json:
    match route:
        case FarTcp(_, host, port):
            return {"remoteHost": host, "remotePort": port}
        case FarUnix(_, path):
            return {"remoteSocket": path}
        case NearTcp(host, port):
            return {"localHost": host, "localPort": port}
        case NearUnix(path):
            return {"localSocket": path}
        case Socks():
            return {}
        case _:
            assert_never(route)


def _policy(policy: Policy, kind: str) -> Json:
    made: Json = {
        "description": policy.description,
        "labels": dict(policy.labels),
        "allow": list(policy.allow),
        "deny": list(policy.deny),
        "maxConnections": policy.max_connections,
        "holdTimeout": shown_duration(policy.hold_timeout),
        "idleTimeout": shown_duration(policy.idle_timeout),
        "drainTimeout": shown_duration(policy.drain_timeout),
        "bandwidthLimit": shown_rate(policy.bandwidth_limit),
        "critical": policy.critical,
        "audit": policy.audit,
    }
    if policy.expires_at is not None:
        made["expiresAt"] = datetime.fromtimestamp(policy.expires_at, UTC).isoformat()
    if policy.port_file:
        made["portFile"] = policy.port_file
    match kind:
        case "socks":
            users = [{"username": user.name, "password": _source(user.password)} for user in policy.users]
            made["allowDestinations"] = list(policy.allow_destinations)
            made["denyDestinations"] = list(policy.deny_destinations)
            return made | ({"auth": users} if users else {})
        case "remote":
            made["onConflict"] = "standby" if policy.standby else "retry"
        case _:
            pass
    return made | {"health": _health(policy.health) if policy.health else False}


def _health(health: Health) -> Json:
    return {
        "type": health.type,
        **({"path": health.path} if health.type == "http" else {}),
        "interval": shown_duration(health.interval),
        "timeout": shown_duration(health.timeout),
        "failureThreshold": health.failure_threshold,
        "onFailure": "reconnect" if health.reconnect else "report",
    }
