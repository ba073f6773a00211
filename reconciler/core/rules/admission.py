"""Applies a tunnel's rules to a client: on accept, to its requested destination, and again after an edit.

Input: the tunnel and the client. Output: yes or no, or the reason for a refusal. The actuator calls `forbids` to cut
clients, and the simulator calls it to count them for `tunnels plan`.
"""

from __future__ import annotations

from functools import lru_cache

from reconciler.core.observed import ClientInfo
from reconciler.core.rules.access import DestinationRules, SourceRules
from reconciler.core.rules.origin import Origin
from reconciler.core.spec import FarTcp, TunnelSpec


def source_allowed(tunnel: TunnelSpec, origin: Origin) -> bool:
    """Return True if a client from `origin` may connect."""
    return _sources(tunnel.policy.allow, tunnel.policy.deny).permits(origin)


def destination_refused(tunnel: TunnelSpec, to: FarTcp) -> str:
    """Return why a SOCKS client may not connect to `to`, "" if it may."""
    policy = tunnel.policy
    return _destinations(policy.allow_destinations, policy.deny_destinations).refusal(to.host, to.port)


def forbids(tunnel: TunnelSpec, client: ClientInfo) -> str:
    """Return why the tunnel's current rules do not admit a live client, "" if they do."""
    if not source_allowed(tunnel, client.origin):
        return f"source {client.origin.host} is no longer allowed"
    if client.requested is not None and (refusal := destination_refused(tunnel, client.requested)):
        return refusal
    if tunnel.policy.users and client.user not in tunnel.policy.users:
        return "its user is no longer allowed"
    return ""


@lru_cache(maxsize=1024)
def _sources(allow: tuple[str, ...], deny: tuple[str, ...]) -> SourceRules:
    return SourceRules.parse(allow, deny)


@lru_cache(maxsize=1024)
def _destinations(allow: tuple[str, ...], deny: tuple[str, ...]) -> DestinationRules:
    return DestinationRules.parse(allow, deny)
