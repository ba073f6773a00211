"""A client connection: its states, the tunnel that it belongs to, and what it reports before it has a link."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from reconciler.core.observed import ClientInfo, SocketKey, SocketPhase, SocketState
from reconciler.core.spec import FarTcp, TunnelSpec
from reconciler.ssh.clients.connection import ClientConnection, ClientState, ListenerClients
from reconciler.ssh.relay.client_socket import ClientSocket
from unit.build import local, origin, socks

HANDSHAKE, HELD, OPENING, RELAYING, CLOSED = ClientState


def listener(owner: TunnelSpec) -> ListenerClients:
    return ListenerClients(SocketState(SocketKey(owner.listen, 0), owner, SocketPhase.BOUND, None, ""))


def connection(owner: TunnelSpec, state: ClientState = HELD) -> ClientConnection:
    return ClientConnection(1, listener(owner), ClientSocket(), ClientInfo(origin("192.0.2.1")), state)


@pytest.mark.parametrize(
    "states",
    [
        (HELD, OPENING, RELAYING, CLOSED),
        (HANDSHAKE, HELD, OPENING, HELD, OPENING, RELAYING, CLOSED),
        *((state, CLOSED) for state in (HANDSHAKE, HELD, OPENING)),
    ],
)
def test_a_client_goes_through_its_states(states: tuple[ClientState, ...]) -> None:
    client = connection(local(), states[0])
    for _, state in pairwise(states):
        client.enter(state)
        assert client.state is state


@pytest.mark.parametrize(
    ("before", "after"),
    [(HANDSHAKE, OPENING), (HELD, RELAYING), (RELAYING, HELD), *((CLOSED, state) for state in ClientState)],
)
def test_a_client_skips_no_state_and_leaves_none_twice(before: ClientState, after: ClientState) -> None:
    client = connection(local(), before)
    with pytest.raises(AssertionError, match="cannot go from"):
        client.enter(after)
    assert client.state is before


def test_a_client_without_a_link_follows_the_owner_of_its_listener() -> None:
    client = connection(local("prod/old"))
    client.listener.state = replace(client.listener.state, owner=local("prod/new", to="other"))
    assert client.tunnel.id == "prod/new"
    assert client.to == str(client.tunnel.route)
    assert (client.sent, client.received, client.user) == (0, 0, "")


def test_a_socks_client_reports_the_destination_that_it_requested() -> None:
    client = connection(socks(), HANDSHAKE)
    assert client.to == str(client.tunnel.route)
    client.client = replace(client.client, requested=FarTcp("prod", "db.internal", 443))
    assert client.to == "db.internal:443"
