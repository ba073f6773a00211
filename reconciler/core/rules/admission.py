"""Whether a tunnel's rules admit a client: as it comes, where it asks to go, and whether it may stay after an edit.

In: the tunnel and the client. Out: yes or no, or the sentence that says why not. One rule for the fleet, which cuts by
it, and for the plan, which counts by it.
"""

from __future__ import annotations

from functools import lru_cache

from reconciler.core.observed import ClientInfo
from reconciler.core.rules.access import DestinationRules, SourceRules
from reconciler.core.rules.origin import Origin
from reconciler.core.spec import FarTcp, TunnelSpec


def source_allowed(tunnel: TunnelSpec, origin: Origin) -> bool:
    """Whether a client from there may connect."""
    return _sources(tunnel.policy.allow, tunnel.policy.deny).permits(origin)


def destination_refused(tunnel: TunnelSpec, to: FarTcp) -> str:
    """Why a SOCKS client may not go there, "" if it may."""
    policy = tunnel.policy
    return _destinations(policy.allow_destinations, policy.deny_destinations).refusal(to.host, to.port)


def forbids(tunnel: TunnelSpec, client_info: ClientInfo) -> str:
    """Why the tunnel's present rules no longer admit a live client, "" if they do.

    An edit needs no more than this: rules are looked up by their text.
    """
    if not source_allowed(tunnel, client_info.origin):
        return f"its source {client_info.origin.host} is not allowed any more"
    if client_info.asked is not None and (refusal := destination_refused(tunnel, client_info.asked)):
        return refusal
    if tunnel.policy.users and client_info.user not in tunnel.policy.users:
        return "its user may not use the tunnel any more"
    return ""


@lru_cache(maxsize=1024)
def _sources(allow: tuple[str, ...], deny: tuple[str, ...]) -> SourceRules:
    return SourceRules.parse(allow, deny)


@lru_cache(maxsize=1024)
def _destinations(allow: tuple[str, ...], deny: tuple[str, ...]) -> DestinationRules:
    return DestinationRules.parse(allow, deny)
