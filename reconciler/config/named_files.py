"""Lists the files that the specs name. When one of them changes, a target in backoff is dialled at once."""

from __future__ import annotations

from collections.abc import Iterator

from reconciler.core.secret import FromFile, Source
from reconciler.core.spec import AgentLogin, Desired, KeyLogin, Login, PasswordLogin, TargetSpec


def named_files(desired: Desired) -> frozenset[str]:
    """Return the keys, certificates, secrets and known hosts of all hops, and the passwords of SOCKS users."""
    users = (user for tunnel in desired.tunnels.values() for user in tunnel.policy.users)
    passwords = frozenset(path for user in users for path in _of_sources(user.password))
    return passwords.union(*map(_of_target, desired.targets.values()))


def _of_target(target: TargetSpec) -> frozenset[str]:
    hops = (*target.access.via, target.access.hop)
    known_hosts = frozenset(path for hop in hops for path in hop.trust.known_hosts)
    return known_hosts | frozenset(path for hop in hops for login in hop.logins for path in _of_login(login))


def _of_login(login: Login) -> Iterator[str]:
    match login:
        case KeyLogin(key, passphrase, certificate):
            yield from _of_sources(key, passphrase, certificate)
        case AgentLogin(only=public_key):
            if public_key:
                yield public_key
        case PasswordLogin(password):
            yield from _of_sources(password)


def _of_sources(*sources: Source | None) -> Iterator[str]:
    for source in sources:
        if isinstance(source, FromFile):
            yield source.path
